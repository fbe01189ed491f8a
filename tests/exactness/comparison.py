"""Does this process come to the payloads and the indices of a reference set?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ndsc.codec.bitstream import Bitstream, decode_payload, encode_payload
from tests.exactness.reference import Entry, Reference


@dataclass(frozen=True)
class Outcome:
    """What a comparison found."""

    frames: Mapping[str, int] = field(default_factory=dict)
    """Frames decoded, by grid."""
    encoded: int = 0
    """Of them encoded too; decoding already encodes what it has read and compares the bytes."""
    mismatches: int = 0
    """Frames whose indices or payload came out otherwise, or not at all."""
    first: str | None = None
    """The first of them and what was wrong."""

    @property
    def total(self) -> int:
        """Frames of all grids."""
        return sum(self.frames.values())

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            dict(Counter(self.frames) + Counter(other.frames)),
            self.encoded + other.encoded,
            self.mismatches + other.mismatches,
            self.first or other.first,
        )


def compare(reference: Reference, bitstream: Bitstream, *, encode_every: int = 1) -> Outcome:
    """Decode every payload and encode the indices of every `encode_every`-th, both to be exactly the reference's.

    An exception counts as a mismatch. Raises BitstreamMismatchError for a reference of another bitstream.
    """
    bitstream.check_id(reference.bitstream_id)
    outcome = Outcome()
    for number, entry in enumerate(reference.entries):
        encode = number % encode_every == 0
        wrong = _difference(entry, bitstream, encode=encode)
        outcome += one(entry, number, wrong, encoded=encode)
    return outcome


def one(entry: Entry, number: int, wrong: str | None, *, encoded: bool) -> Outcome:
    """The outcome of one frame; `wrong` says what was, None where nothing was."""
    first = (
        wrong and f"frame {number} ({entry.kind}, rate level {entry.rate_level}, {entry.grid_name}): {wrong}"
    )
    return Outcome({entry.grid_name: 1}, int(encoded), int(wrong is not None), first)


def _difference(entry: Entry, bitstream: Bitstream, *, encode: bool) -> str | None:
    try:
        decoded = decode_payload(entry.payload, entry.grid, entry.rate_level, bitstream)
        if not np.array_equal(decoded, entry.indices):
            return "other indices"
        if encode and encode_payload(entry.indices, entry.rate_level, bitstream) != entry.payload:
            return "another payload"
    except Exception as error:  # whatever stops a frame, the frame did not come out
        return f"{type(error).__name__}: {error}"
    return None
