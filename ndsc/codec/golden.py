"""Golden vectors: indices and the exact payload they must become, and damaged payloads with the error that each
must give. Carried in every bundle.

A process that loads a bundle walks them once before it serves: another version of the entropy coder, or a
machine that computes differently, then shows as an error and not as wrong pictures.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ndsc.codec.bitstream import (
    PAYLOAD_CRC_BYTES,
    Bitstream,
    decode_payload,
    encode_payload,
    payload_bounds,
)
from ndsc.codec.errors import (
    BundleError,
    NdscError,
    PayloadCorruptError,
    PayloadSizeError,
    first_problem,
)
from ndsc.codec.frames import Geometry, Grid
from ndsc.codec.prior import check_json_length

_GRIDS: Final = (Grid(1, 1), Grid(1, 7), Grid(3, 5), Grid(16, 32), Grid(47, 156))
_UNIFORM_GRID: Final = Grid(16, 32)
_DAMAGED_GRID: Final = Grid(3, 5)

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


class DamagedVector(BaseModel):
    """A payload that must be refused, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    damage: Annotated[str, Field(max_length=100)]
    """For people."""
    rate_level: Annotated[int, Field(ge=0, le=255)]
    grid: Annotated[list[_Side], Field(min_length=2, max_length=2)]
    payload: str
    error: Literal["PayloadSizeError", "PayloadCorruptError"]


class Golden(BaseModel):
    """The content of `golden.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    entries: Annotated[list[GoldenVector], Field(min_length=1, max_length=4096)]
    damaged: Annotated[list[DamagedVector], Field(min_length=1, max_length=4096)]

    @classmethod
    def from_json(cls, data: bytes) -> Golden:
        """Read `golden.json`. Raises BundleError."""
        check_json_length(data, "golden.json")
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise BundleError(f"golden.json is not valid: {first_problem(error)}") from error

    def to_json(self) -> bytes:
        """As `golden.json`."""
        return self.model_dump_json(indent=1).encode()

    def check(self, bitstream: Bitstream) -> None:
        """Encode and decode every vector here and now.

        Raises BundleError unless all come out exactly, and for a grid larger than any frame's: a few bytes of a
        foreign bundle must not ask for minutes.
        """
        for sides in (*(e.grid for e in self.entries), *(d.grid for d in self.damaged)):
            if not _fits(Grid(*sides), bitstream.geometry):
                raise BundleError(f"golden.json has a grid {sides} that no frame of this bundle has")
        for number, entry in enumerate(self.entries):
            try:
                same = _comes_out(entry, bitstream)
            except (NdscError, ValueError) as error:
                raise BundleError(
                    f"golden vector {number} of this bundle cannot be coded: {error}"
                ) from error
            if not same:
                raise BundleError(
                    f"golden vector {number} of this bundle does not come out here: bits made here would not "
                    "be readable elsewhere; check the versions of constriction and onnxruntime, and the bundle"
                )
        for number, vector in enumerate(self.damaged):
            try:
                outcome = _refusal(vector.payload, vector.rate_level, Grid(*vector.grid), bitstream)
            except (NdscError, ValueError) as error:
                raise BundleError(
                    f"damaged golden vector {number} of this bundle cannot be read: {error}"
                ) from error
            if outcome != vector.error:
                raise BundleError(
                    f"damaged golden vector {number} of this bundle gives {outcome or 'indices'} here where it "
                    f"must give {vector.error}"
                )


def make_golden(bitstream: Bitstream) -> Golden:
    """Vectors for each rate level: five grids with indices drawn from the prior (of planes the largest at one
    level alone), one with uniform ones, and every kind of damage.

    Deterministic (PCG64, seed 0) for a given numpy release; the indices are stored, so a reader draws
    nothing.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    entries, damaged = [], []
    grids = [grid for grid in _GRIDS if _fits(grid, bitstream.geometry)]
    uniform = _UNIFORM_GRID if _UNIFORM_GRID in grids else grids[-1]
    spoilt = _DAMAGED_GRID if _DAMAGED_GRID in grids else grids[0]
    for level in range(len(bitstream.rate_levels)):
        stages, prior = bitstream.stages_sent(level), bitstream.prior
        # Planes are many: the largest grid once, or the vectors take more room than the networks.
        large = prior.rate_levels is None or level == len(bitstream.rate_levels) // 2
        drawn = [
            prior.sample(rng, stages, grid.height, grid.width, level)
            for grid in grids
            if large or grid.positions <= _UNIFORM_GRID.positions
        ]
        shape = (uniform.height, uniform.width)
        drawn.append(
            np.stack([rng.integers(k, size=shape, dtype=np.int32) for k in prior.codebook_sizes[:stages]])
        )
        entries += [_vector(indices, level, bitstream) for indices in drawn]
        damaged += _damaged(drawn[grids.index(spoilt)], spoilt, level, bitstream)
    return Golden(entries=entries, damaged=damaged)


def _damaged(indices: NDArray[np.int32], at: Grid, level: int, bitstream: Bitstream) -> list[DamagedVector]:
    """A payload of these indices, damaged in every way that has its own rule."""
    sound = encode_payload(indices, level, bitstream)
    coded, crc = sound[:-PAYLOAD_CRC_BYTES], sound[-PAYLOAD_CRC_BYTES:]

    def flipped(data: bytes, bit: int) -> bytes:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    longest = payload_bounds(bitstream, level, at)[1]
    payloads = {
        "nothing": b"",
        "the checksum alone": crc,
        "one byte short": sound[:-1],
        "one byte more": sound + b"\0",
        "longer than any": coded + bytes(longest - len(sound) + 4) + crc,
        "its last coded word missing": coded[:-4] + crc,
        "a coded word of zeros more": coded + bytes(4) + crc,
        "the highest bit of the first coded word": flipped(coded, 31) + crc,
        "the lowest bit of the last coded word, which no index hangs on": flipped(coded, 8 * len(coded) - 32)
        + crc,
        "a bit of the checksum": coded + flipped(crc, 0),
        "ones, which lie outside every index's interval": b"\xff" * len(coded) + crc,
    }
    vectors = []
    for damage, payload in payloads.items():
        error = _refusal(payload.hex(), level, at, bitstream)
        if error is None:
            raise ValueError(f"a payload with this damage is read: {damage}")
        grid = [at.height, at.width]
        vectors.append(
            DamagedVector(damage=damage, rate_level=level, grid=grid, payload=payload.hex(), error=error)
        )
    return vectors


def _fits(grid: Grid, geometry: Geometry) -> bool:
    """Whether some frame that the bundle codes has this grid."""
    height, width = ((side - 1) * geometry.stride + 1 for side in (grid.height, grid.width))
    return max(height, width) <= geometry.max_side and height * width <= geometry.max_pixels


def _refusal(
    payload: str, level: int, grid: Grid, bitstream: Bitstream
) -> Literal["PayloadSizeError", "PayloadCorruptError"] | None:
    try:
        decode_payload(bytes.fromhex(payload), grid, level, bitstream)
    except PayloadSizeError:
        return "PayloadSizeError"
    except PayloadCorruptError:
        return "PayloadCorruptError"
    return None


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
