"""Damage done to sound payloads and `.ndsc` files: the exact indices come out, or an error of the codec's own.

`python -m tests.fuzz` runs it at length, `python -m tests.fuzz.corpus` writes the corpus anew.
"""
