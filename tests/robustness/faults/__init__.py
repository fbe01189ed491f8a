"""The faults: each function does one to a run, and sees that the history shows it."""
