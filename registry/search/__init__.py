"""Find sealed messages by the words of their body, by a number's last digits or by its first ones.

words      text to words, the same way for what is stored and for what is asked
terms      what a message can be found by, and the keyed hashes that stand for it
postings   lists of row ids: their bytes, sealed
models     the tables
building   index what is new; merge and rebuild runs
lookup     the rows that may have all the terms, newest first
"""
