"""Golden vectors: indices and the exact payload they must become, carried in every bundle.

A process that loads a bundle codes them once before it serves: another version of the entropy coder, or a
machine that computes differently, then shows as an error and not as wrong pictures.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ndsc.codec.bitstream import Bitstream, decode_payload, encode_payload
from ndsc.codec.errors import BundleError, NdscError, first_problem
from ndsc.codec.frames import Grid
from ndsc.codec.prior import FREQUENCY_TOTAL

_GRIDS: Final = (Grid(1, 1), Grid(1, 7), Grid(3, 5), Grid(16, 32))

_Side = Annotated[int, Field(ge=1, le=1024)]


class GoldenVector(BaseModel):
    """One set of indices and the payload they become."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rate_level: Annotated[int, Field(ge=0, le=255)]
    grid: Annotated[list[_Side], Field(min_length=2, max_length=2)]
    """[height, width]"""
    indices: str
    """Base64 of the sent indices as little-endian u16, stage by stage, raster order in each."""
    payload: str
    """Hexadecimal."""


class Golden(BaseModel):
    """The content of `golden.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    entries: Annotated[list[GoldenVector], Field(min_length=1, max_length=4096)]

    @classmethod
    def from_json(cls, data: bytes) -> Golden:
        """Read `golden.json`. Raises BundleError."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise BundleError(f"golden.json is not valid: {first_problem(error)}") from error

    def to_json(self) -> bytes:
        """As `golden.json`."""
        return self.model_dump_json(indent=1).encode()

    def check(self, bitstream: Bitstream) -> None:
        """Encode and decode every vector here and now. Raises BundleError unless all come out exactly."""
        for number, entry in enumerate(self.entries):
            try:
                same = _comes_out(entry, bitstream)
            except (NdscError, ValueError) as error:
                raise BundleError(
                    f"golden vector {number} of this bundle cannot be coded: {error}"
                ) from error
            if not same:
                raise BundleError(
                    f"golden vector {number} of this bundle does not come out here; bits made here would not "
                    "be readable elsewhere; check the version of constriction (0.5.0) and the bundle"
                )


def make_golden(bitstream: Bitstream) -> Golden:
    """Vectors for each rate level: four grids with indices drawn from the prior, one with uniform ones.

    Deterministic (PCG64, seed 0) for a given numpy release; the indices are stored, so a reader draws
    nothing.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    entries = []
    for level in range(len(bitstream.rate_levels)):
        tables = bitstream.prior.frequencies[: bitstream.stages_sent(level)]
        drawn = [np.stack([_draw(rng, table, grid) for table in tables]) for grid in _GRIDS]
        last = _GRIDS[-1]
        drawn.append(
            np.stack(
                [rng.integers(table.size, size=(last.height, last.width), dtype=np.int32) for table in tables]
            )
        )
        entries += [_vector(indices, level, bitstream) for indices in drawn]
    return Golden(entries=entries)


def _draw(rng: np.random.Generator, table: NDArray[np.uint32], grid: Grid) -> NDArray[np.int32]:
    """Indices [h, w] with the table's frequencies, in integer arithmetic."""
    points = rng.integers(FREQUENCY_TOTAL, size=(grid.height, grid.width))
    return np.searchsorted(np.cumsum(table, dtype=np.int64), points, side="right").astype(np.int32)


def _vector(indices: NDArray[np.int32], level: int, bitstream: Bitstream) -> GoldenVector:
    return GoldenVector(
        rate_level=level,
        grid=[indices.shape[1], indices.shape[2]],
        indices=base64.b64encode(indices.astype("<u2").tobytes()).decode(),
        payload=encode_payload(indices, level, bitstream).hex(),
    )


def _comes_out(entry: GoldenVector, bitstream: Bitstream) -> bool:
    grid = Grid(*entry.grid)
    try:
        flat = np.frombuffer(base64.b64decode(entry.indices, validate=True), dtype="<u2").astype(np.int32)
    except binascii.Error as error:
        raise ValueError(f"its indices are not base64 ({error})") from error
    indices = flat.reshape(bitstream.stages_sent(entry.rate_level), grid.height, grid.width)
    payload = bytes.fromhex(entry.payload)
    return encode_payload(indices, entry.rate_level, bitstream) == payload and np.array_equal(
        decode_payload(payload, grid, entry.rate_level, bitstream), indices
    )
