"""What crosses between processes: ids, messages, envelopes and problem details. Imports nothing of ours."""
