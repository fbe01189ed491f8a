"""Decodes mutants and judges what comes out.

Whatever the bytes: the exact indices, and only for bytes that a sound encoder made, or an error that the codec
raises on purpose. Anything else is an *escape*: another exception, other indices, indices for other bytes, an
error for sound bytes, more memory than the bound (`tests.fuzz.memory`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import google_crc32c
import numpy as np

from ndsc.codec import bitstream as codec
from ndsc.codec.errors import (
    BitstreamMismatchError,
    FrameFileError,
    GeometryError,
    PayloadCorruptError,
    PayloadSizeError,
    RateLevelError,
)
from tests.fuzz.memory import (
    COPIES_OF_DATA,
    FIXED_RESIDENT_BYTES,
    FIXED_TRACED_BYTES,
    Peak,
    measured,
    resident_bound,
    traced_bound,
)
from tests.fuzz.mutants import FILE_CRC_BYTES, HEADER_BYTES, Mutant, Mutator
from tests.fuzz.sound import OWN, Claim, Indices, Pool

TRACE_EVERY: Final = 16
"""One mutant in so many is traced, which makes it take half as long again."""
MAX_ESCAPES_KEPT: Final = 100

_PAYLOAD_ERRORS: Final = (PayloadSizeError, PayloadCorruptError)
_SEALED_FILE_ERRORS: Final = (
    FrameFileError,
    BitstreamMismatchError,
    RateLevelError,
    GeometryError,
    *_PAYLOAD_ERRORS,
)


@dataclass(frozen=True)
class Escape:
    """A mutant that got through."""

    number: int
    kind: str
    reason: str
    data: bytes
    claim: Claim | None


@dataclass
class Tally:
    """Outcomes of many mutants. Tallies of parts of a run add up."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind of mutant and outcome."""
    escapes: list[Escape] = field(default_factory=list)
    """The first of them."""
    largest_share_traced: float = 0.0
    """Of the bound of its call."""
    largest_share_resident: float = 0.0
    slowest_ms: float = 0.0
    """Of this process's own time."""
    slowest: str = ""
    """Number and kind of that mutant."""

    @property
    def total(self) -> int:
        """Mutants decoded."""
        return self.outcomes.total()

    @property
    def escaped(self) -> int:
        """Mutants that got through."""
        return sum(n for (_, outcome), n in self.outcomes.items() if outcome == ESCAPED)

    def add(self, other: Tally) -> None:
        """Take in another tally."""
        self.outcomes.update(other.outcomes)
        self.escapes = (self.escapes + other.escapes)[:MAX_ESCAPES_KEPT]
        self.largest_share_traced = max(self.largest_share_traced, other.largest_share_traced)
        self.largest_share_resident = max(self.largest_share_resident, other.largest_share_resident)
        if other.slowest_ms > self.slowest_ms:
            self.slowest_ms, self.slowest = other.slowest_ms, other.slowest


ESCAPED: Final = "ESCAPED"
UNCHANGED: Final = "unchanged"
"""The damage gave the same bytes back, and they gave the exact indices."""
ALSO_SOUND: Final = "also sound"
"""The damage gave other bytes that an encoder makes too, and they gave the exact indices."""


class _GotThroughError(Exception):
    """Why a mutant is an escape."""


class Fuzzer:
    """Runs mutants of a pool's payloads.

    Args:
        pool: what to mutate.
        seed: with a mutant's number it says which mutant.
    """

    def __init__(self, pool: Pool, seed: int) -> None:
        self._pool = pool
        self._mutator = Mutator(pool, seed)
        self._traced_bound = lru_cache(maxsize=4096)(traced_bound)
        self._resident_bound = lru_cache(maxsize=4096)(resident_bound)

    def mutant(self, number: int) -> Mutant:
        """The mutant of this number."""
        return self._mutator.make(number)

    def run(self, numbers: Iterable[int]) -> Tally:
        """Decode and judge the mutants of these numbers."""
        tally = Tally()
        for number in numbers:
            self._run_one(number, tally)
        return tally

    def _run_one(self, number: int, tally: Tally) -> None:
        mutant = self.mutant(number)
        start = time.process_time()
        try:
            with measured(traced=number % TRACE_EVERY == 0) as peak:
                outcome = self.judge(mutant)
            self._check_memory(mutant, peak, tally)
        except _GotThroughError as escape:
            outcome = ESCAPED
            if len(tally.escapes) < MAX_ESCAPES_KEPT:
                tally.escapes.append(Escape(number, mutant.kind, str(escape), mutant.data, mutant.claim))
        tally.outcomes[mutant.kind, outcome] += 1
        took_ms = 1000 * (time.process_time() - start)
        if took_ms > tally.slowest_ms:
            tally.slowest_ms, tally.slowest = took_ms, f"{number}: {mutant.kind}"

    def judge(self, mutant: Mutant) -> str:
        """Name of what came out: an error's class, `UNCHANGED` or `ALSO_SOUND`.

        Raises what `run` counts as an escape.
        """
        if mutant.claim is None:
            error = self._judge_file(mutant.data)
        else:
            error = self._judge_payload(mutant.data, mutant.claim)
        return error or (UNCHANGED if mutant.unchanged else ALSO_SOUND)

    def _judge_payload(self, data: bytes, claim: Claim) -> str | None:
        known = claim.rate_level < self._pool.levels
        allowed = _PAYLOAD_ERRORS if known else (RateLevelError,)
        sound = self._pool.indices_of(claim, data)
        stream = self._pool.streams[claim.stream]
        return _outcome(
            lambda: codec.decode_payload(data, claim.grid, claim.rate_level, stream), allowed, sound
        )

    def _judge_file(self, data: bytes) -> str | None:
        def decode() -> Indices:
            return self._pool.decoder.unpack(codec.from_bytes(data)).stages

        whole = int.from_bytes(data[-FILE_CRC_BYTES:], "little") == google_crc32c.value(
            data[:-FILE_CRC_BYTES]
        )
        return _outcome(decode, _SEALED_FILE_ERRORS if whole else (FrameFileError,), self._sound_in(data))

    def _sound_in(self, data: bytes) -> Indices | None:
        """What a file must give: exact indices where it is, byte for byte, what an encoder writes.

        Two frames whose sizes differ by less than a stride have the same payload, so the size in the header may
        be another than that of the frame the payload was made of.
        """
        claim = self._claim_of(data)
        if claim is None:
            return None
        payload = data[HEADER_BYTES:-FILE_CRC_BYTES]
        indices = self._pool.indices_of(claim, payload)
        if indices is None:
            return None
        width, height = _sides(data)
        frame = codec.CompressedFrame(
            self._pool.bundle.bitstream_id, claim.rate_level, width, height, payload
        )
        return indices if codec.to_bytes(frame) == data else None

    def _claim_of(self, data: bytes) -> Claim | None:
        """What a file's header says, read here by hand; None where the bundle cannot code such a frame."""
        geometry = self._pool.bundle.geometry
        if len(data) < HEADER_BYTES + FILE_CRC_BYTES or data[5] >= self._pool.levels:
            return None
        width, height = _sides(data)
        if not (0 < width <= geometry.max_side and 0 < height <= geometry.max_side):
            return None
        if width * height > geometry.max_pixels:
            return None
        return Claim(OWN, data[5], geometry.grid(width, height))

    def _check_memory(self, mutant: Mutant, peak: Peak, tally: Tally) -> None:
        claim = mutant.claim or self._claim_of(mutant.data)
        size = len(mutant.data)
        if claim and claim.rate_level < self._pool.levels:
            what = self._pool.streams[claim.stream], claim.rate_level, claim.grid
            traced, resident = self._traced_bound(*what, 0), self._resident_bound(*what, 0)
        else:
            traced, resident = FIXED_TRACED_BYTES, FIXED_RESIDENT_BYTES
        traced, resident = traced + COPIES_OF_DATA * size, resident + COPIES_OF_DATA * size
        if peak.traced is not None:
            tally.largest_share_traced = max(tally.largest_share_traced, peak.traced / traced)
            if peak.traced > traced:
                raise _GotThroughError(f"{peak.traced} bytes allocated, at most {traced} may be")
        tally.largest_share_resident = max(tally.largest_share_resident, peak.resident / resident)
        if peak.resident > resident:
            raise _GotThroughError(f"grew by {peak.resident} bytes, at most {resident} may be")


def _outcome(
    decode: Callable[[], Indices], allowed: tuple[type[Exception], ...], sound: Indices | None
) -> str | None:
    """The class of the error; None for exact indices."""
    try:
        indices = decode()
    except KeyboardInterrupt:
        raise
    except allowed as error:
        if sound is not None:
            raise _GotThroughError(f"sound bytes refused: {type(error).__name__}: {error}") from error
        if "\n" in str(error):
            raise _GotThroughError(f"a message of several lines: {error!r}") from error
        return type(error).__name__
    except BaseException as error:  # a panic in an extension derives from BaseException
        raise _GotThroughError(f"{type(error).__name__}: {error}") from error
    if sound is None:
        raise _GotThroughError("indices for bytes that no encoder made")
    if indices.dtype != np.int32 or not np.array_equal(indices, sound):
        raise _GotThroughError("other indices than those that were encoded")
    return None


def _sides(data: bytes) -> tuple[int, int]:
    """Width and height in a file's header."""
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
