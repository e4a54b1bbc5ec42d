"""Nothing lost, nothing twice: real processes under load, and faults drawn from a seed.

docs/chaos.md says how to run it.

plan      what happens when, drawn from the seed before anything starts
stage     the processes, restarted as a supervisor does
load      numbered messages, each sent until it is accepted
faults    what is done to them
proxy     what stands between worker and registry, and answers in its place
ledger    where every accepted message is, and whether the sums agree
drama     the run: scenario after scenario, each with its check
"""
