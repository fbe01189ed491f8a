"""The latent prior: how likely each index is, in integers, so that any machine computes the same bits.

Three kinds: a static table for each residual stage, here; the context prior of such stages (`ndsc.codec.context`);
and the prior of a scalar quantizer's planes (`ndsc.codec.scalar_prior`). Below, *stages* are either. Frequencies
are integers of at least 1 that add up to 2**16; no floating-point result ever reaches the entropy coder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ndsc.codec import entropy
from ndsc.codec.errors import BundleError, PayloadCorruptError, first_problem

FREQUENCY_BITS: Final = 16
FREQUENCY_TOTAL: Final = 1 << FREQUENCY_BITS
MAX_STAGES: Final = 16
MAX_JSON_BYTES: Final = 8 << 20
"""A prior.json of 16 codebooks of 2**16 vectors, the largest, takes 7 MB; golden vectors take far less."""

_CODER_BITS: Final = 24
"""The range coder's own resolution: constriction's default precision."""


class LatentPrior(Protocol):
    """What the bitstream needs of a prior. Safe to use from several threads."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """How many values the indices of each stage have."""

    @property
    def rate_levels(self) -> int | None:
        """Rate levels whose indices differ; None where all levels send the first of the same stages."""

    def encode(self, indices: NDArray[np.int32], rate_level: int = 0, *, threads: int = 1) -> bytes:
        """Indices int32 [stages sent, h, w], inside their codebooks → coded bytes, whole words.

        `threads`: how many it may use.
        """

    def decode(
        self, coded: bytes, stages_sent: int, height: int, width: int, rate_level: int = 0
    ) -> NDArray[np.int32]:
        """Coded bytes → indices int32 [stages sent, height, width].

        Raises PayloadCorruptError where the bytes are not the very ones that `encode` makes of the indices.
        """

    def ideal_bits(self, indices: NDArray[np.int32], rate_level: int = 0) -> float:
        """Information in indices [stages sent, h, w] under this prior: -Σ log2(frequency / 2**16)."""

    def sample(
        self, rng: np.random.Generator, stages_sent: int, height: int, width: int, rate_level: int = 0
    ) -> NDArray[np.int32]:
        """Indices int32 [stages sent, height, width] drawn from this prior, in integer arithmetic."""

    def bits_of_payload(self, stages_sent: int, positions: int) -> tuple[float, float]:
        """Fewest and most bits that the range coder can take for a grid of this many positions."""

    def passes(self, stages_sent: int) -> tuple[str, ...]:
        """Names of the network passes for one frame of this many stages, in coding order."""

    def files(self) -> dict[str, bytes]:
        """The bundle's files of this prior, in their one spelling."""


class _PriorFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["static-table"]
    frequency_bits: Annotated[int, Field(ge=16, le=16)]
    frequencies: Annotated[
        list[Annotated[list[int], Field(fail_fast=True, max_length=FREQUENCY_TOTAL)]],
        Field(min_length=1, max_length=MAX_STAGES),
    ]


@dataclass(frozen=True, eq=False)
class StaticPrior:
    """One frequency table for each residual stage; an index's probability is its frequency / 2**16."""

    frequencies: tuple[NDArray[np.uint32], ...]
    """[codebook size] of each stage, every entry at least 1, sum 2**16. Read-only."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.frequencies) <= MAX_STAGES:
            raise ValueError(f"a prior has 1 to {MAX_STAGES} stages, not {len(self.frequencies)}")
        for stage, table in enumerate(self.frequencies):
            # The coder cannot hold a certain symbol, so a codebook has at least two vectors.
            if table.ndim != 1 or table.dtype != np.uint32 or not 2 <= table.size <= FREQUENCY_TOTAL:
                raise ValueError(f"stage {stage}: not a uint32 table of 2 to {FREQUENCY_TOTAL} entries")
            if int(table.min()) < 1 or int(table.sum(dtype=np.uint64)) != FREQUENCY_TOTAL:
                raise ValueError(
                    f"stage {stage}: frequencies must be at least 1 and add up to {FREQUENCY_TOTAL}"
                )
            table.flags.writeable = False

    @property
    def rate_levels(self) -> None:
        """None: a level is the number of stages sent."""
        return

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each stage's table."""
        return tuple(table.size for table in self.frequencies)

    @classmethod
    def from_counts(cls, counts: Sequence[NDArray[Any]]) -> Self:
        """Build from how often each index was seen: one integer array [codebook size] for each stage.

        Rule: every index gets 1; the other 2**16 - K parts are shared in proportion to the counts, rounded
        down; what is left goes one each to the largest remainders, ties to the lower index. Counts that are
        all zero count as all one. Raises ValueError for negative or fractional counts.
        """
        return cls(tuple(_normalise(np.asarray(stage)) for stage in counts))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read `prior.json`. Raises BundleError when it is not a valid prior."""
        check_json_length(data, "prior.json")
        try:
            parsed = _PriorFile.model_validate_json(data)
            tables = []
            for stage, table in enumerate(parsed.frequencies):
                if any(not 1 <= frequency <= FREQUENCY_TOTAL for frequency in table):
                    raise ValueError(f"stage {stage}: a frequency is outside 1 to {FREQUENCY_TOTAL}")
                tables.append(np.array(table, dtype=np.uint32))
            return cls(tuple(tables))
        except ValidationError as error:
            raise BundleError(f"prior.json is not a valid prior: {first_problem(error)}") from error
        except ValueError as error:
            raise BundleError(f"prior.json is not a valid prior: {error}") from error

    def files(self) -> dict[str, bytes]:
        """The bundle's files of this prior, in their one spelling."""
        tables = [table.tolist() for table in self.frequencies]
        content = {"kind": "static-table", "frequency_bits": FREQUENCY_BITS, "frequencies": tables}
        return {"prior.json": json.dumps(content, sort_keys=True, separators=(",", ":")).encode()}

    def ideal_bits(self, indices: NDArray[np.integer[Any]], rate_level: int = 0) -> float:
        """Information in indices [stages sent, h, w] under this prior: -Σ log2(frequency / 2**16)."""
        total = 0.0
        for table, stage in zip(self.frequencies, indices, strict=False):
            total += stage.size * FREQUENCY_BITS - float(np.log2(table[stage]).sum())
        return total

    def encode(self, indices: NDArray[np.int32], rate_level: int = 0, *, threads: int = 1) -> bytes:
        """Indices int32 [stages sent, h, w], inside their codebooks → coded bytes, whole words."""
        return entropy.encode(list(indices), self.frequencies)

    def decode(
        self, coded: bytes, stages_sent: int, height: int, width: int, rate_level: int = 0
    ) -> NDArray[np.int32]:
        """Coded bytes → indices int32 [stages sent, height, width].

        Raises PayloadCorruptError where the bytes are not the very ones that `encode` makes of the indices.
        """
        stages = entropy.decode(coded, [height * width] * stages_sent, self.frequencies)
        if entropy.encode(stages, self.frequencies) != coded:
            raise PayloadCorruptError(
                "the coded bytes are not those of a sound encoder; ask for the frame again"
            )
        return np.stack(stages).reshape(stages_sent, height, width)

    def sample(
        self, rng: np.random.Generator, stages_sent: int, height: int, width: int, rate_level: int = 0
    ) -> NDArray[np.int32]:
        """Indices int32 [stages sent, height, width] drawn from this prior, in integer arithmetic."""
        stages = []
        for table in self.frequencies[:stages_sent]:
            points = rng.integers(FREQUENCY_TOTAL, size=(height, width))
            stages.append(np.searchsorted(np.cumsum(table, dtype=np.int64), points, side="right"))
        return np.stack(stages).astype(np.int32)

    def bits_of_payload(self, stages_sent: int, positions: int) -> tuple[float, float]:
        """Fewest and most bits that the range coder can take for a grid of this many positions."""
        tables = self.frequencies[:stages_sent]
        least = sum(code_bits(int(table.max()), table.size)[0] for table in tables)
        most = sum(code_bits(int(table.min()), table.size)[1] for table in tables)
        return least * positions, most * positions

    def passes(self, stages_sent: int) -> tuple[str, ...]:
        """None: there is no network."""
        return ()


def check_json_length(data: bytes, name: str) -> None:
    """Raise BundleError for a file too long to be sound: parsing it would take many times its length."""
    if len(data) > MAX_JSON_BYTES:
        raise BundleError(f"{name} is longer than the {MAX_JSON_BYTES} bytes it may have")


def code_bits(frequency: int, size: int) -> tuple[float, float]:
    """Fewest and most bits that a symbol of this frequency, one of `size`, takes in the range coder.

    The coder maps frequency f of K entries to a width of 1 to 2 parts above ⌊f·(2**24 - K) / 2**16⌋ of 2**24, and
    its 64-bit state loses at most log2(256/255) bits a symbol to rounding.
    """
    parts = frequency * ((1 << _CODER_BITS) - size) // FREQUENCY_TOTAL
    least = max(0.0, _CODER_BITS - math.log2(2 + parts))
    return least, _CODER_BITS - math.log2(1 + parts) + math.log2(256 / 255)


def _normalise(counts: NDArray[Any]) -> NDArray[np.uint32]:
    if (
        counts.ndim != 1
        or not np.issubdtype(counts.dtype, np.integer)
        or not 2 <= counts.size <= FREQUENCY_TOTAL
    ):
        raise ValueError(f"counts must be an integer array of 2 to {FREQUENCY_TOTAL} entries for each stage")
    seen = [int(count) for count in counts]
    if min(seen) < 0:
        raise ValueError("counts must not be negative")
    if not any(seen):
        seen = [1] * len(seen)
    total, shared = sum(seen), FREQUENCY_TOTAL - len(seen)
    frequencies = [1 + count * shared // total for count in seen]
    by_remainder = sorted(range(len(seen)), key=lambda i: (-(seen[i] * shared % total), i))
    for i in by_remainder[: FREQUENCY_TOTAL - sum(frequencies)]:
        frequencies[i] += 1
    return np.array(frequencies, dtype=np.uint32)
