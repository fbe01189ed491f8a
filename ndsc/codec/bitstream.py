"""The bits: indices ↔ payload, and the `.ndsc` file around one payload.

    payload    coded bytes (little-endian uint32 words) | CRC-32C of the indices (uint32 LE)
    .ndsc      "NDSC" | version u8 = 1 | rate level u8 | width u16 | height u16 | bitstream id (16 bytes)
               | payload length u32 | payload | CRC-32C of every byte before it u32

All numbers are little-endian.

The payload's CRC covers what the bits mean and not the bits: bitstream id | rate level u8 | grid height u16
| grid width u16 | the sent indices as u16, stage by stage, raster order in each. A range decoder turns any
bytes into plausible indices, so only a checksum of the result tells. Coded bytes must also be the very ones
the encoder makes for those indices: the last word has spare bits, and a changed one must not pass.
`proto/SPEC.md` is the normative text.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ndsc.codec.errors import (
    BitstreamMismatchError,
    FrameFileError,
    GeometryError,
    PayloadCorruptError,
    PayloadSizeError,
    RateLevelError,
)
from ndsc.codec.files import write_whole
from ndsc.codec.frames import Geometry, Grid
from ndsc.codec.prior import LatentPrior

BITSTREAM_ID_BYTES: Final = 16
PAYLOAD_CRC_BYTES: Final = 4
FRAME_FILE_VERSION: Final = 1
MAX_FRAME_FILE_BYTES: Final = 1 << 26

_SLACK_BYTES: Final = 8
_MAGIC: Final = b"NDSC"
_HEADER: Final = struct.Struct("<4sBBHH16sI")
_CRC: Final = struct.Struct("<I")


@dataclass(frozen=True)
class CompressedFrame:
    """One frame as it travels: a payload and what is needed to read it."""

    bitstream_id: bytes
    """16 bytes; says which bundles can decode it."""
    rate_level: int
    """0 is the lowest."""
    width: int
    """Pixels of the frame before padding."""
    height: int
    payload: bytes
    """Coded bytes and their CRC-32C."""

    @property
    def payload_bpp(self) -> float:
        """Payload bits (checksum included) to one pixel of the frame."""
        return 8 * len(self.payload) / (self.width * self.height)


@dataclass(frozen=True, eq=False)
class Bitstream:
    """What the bits mean: everything two machines must share to read each other's payloads."""

    bitstream_id: bytes
    """16 bytes, the hash of all the other fields (see `ndsc.codec.bundle`)."""
    geometry: Geometry
    prior: LatentPrior
    rate_levels: tuple[int, ...]
    """Stages sent at each rate level."""

    def stages_sent(self, rate_level: int) -> int:
        """Stages in a payload of `rate_level`. Raises RateLevelError when there is no such level."""
        if not 0 <= rate_level < len(self.rate_levels):
            raise RateLevelError(
                f"no rate level {rate_level}; this bundle has 0 to {len(self.rate_levels) - 1}"
            )
        return self.rate_levels[rate_level]

    def check_id(self, bitstream_id: bytes) -> None:
        """Raise BitstreamMismatchError unless `bitstream_id` is this one."""
        if bitstream_id != self.bitstream_id:
            raise BitstreamMismatchError(
                f"bits of bitstream id {bitstream_id.hex()} and a bundle of {self.bitstream_id.hex()}; "
                "use the bundle that the bits were made with"
            )


def payload_bounds(bitstream: Bitstream, rate_level: int, grid: Grid) -> tuple[int, int]:
    """Fewest and most bytes that a payload (CRC included) of this level and grid can have."""
    least_bits, most_bits = bitstream.prior.bits_of_payload(bitstream.stages_sent(rate_level), grid.positions)
    least = max(4, 4 * math.floor(least_bits / 32) - _SLACK_BYTES)  # every stream ends in at least one word
    most = 4 * math.ceil(most_bits / 32) + _SLACK_BYTES
    return least + PAYLOAD_CRC_BYTES, most + PAYLOAD_CRC_BYTES


def encode_payload(
    indices: NDArray[np.int32], rate_level: int, bitstream: Bitstream, *, threads: int = 1
) -> bytes:
    """Indices int32 [stages sent, h, w] → payload.

    Raises RateLevelError, and ValueError for another shape or indices outside their codebooks.
    """
    stages = bitstream.stages_sent(rate_level)
    if indices.ndim != 3 or len(indices) != stages or indices.size == 0 or max(indices.shape) > 0xFFFF:
        raise ValueError(f"rate level {rate_level} takes indices [{stages}, h, w], not {list(indices.shape)}")
    for stage, size in zip(indices, bitstream.prior.codebook_sizes, strict=False):
        if int(stage.min()) < 0 or int(stage.max()) >= size:
            raise ValueError(f"indices outside a codebook of {size} vectors")
    return bitstream.prior.encode(indices, rate_level, threads=threads) + _CRC.pack(
        _indices_crc(indices, rate_level, bitstream)
    )


def decode_payload(payload: bytes, grid: Grid, rate_level: int, bitstream: Bitstream) -> NDArray[np.int32]:
    """Payload → indices int32 [stages sent, grid.height, grid.width], exactly those that were encoded.

    Checks, cheapest first: rate level (RateLevelError), length (PayloadSizeError), CRC-32C of the decoded
    indices and canonical form of the coded bytes (PayloadCorruptError).
    """
    stages = bitstream.stages_sent(rate_level)
    least, most = payload_bounds(bitstream, rate_level, grid)
    if len(payload) % 4 or not least <= len(payload) <= most:
        raise PayloadSizeError(
            f"a payload of {len(payload)} bytes cannot be a grid of {grid.width}x{grid.height} at rate level "
            f"{rate_level} (whole words, {least} to {most} bytes); it is damaged or of another frame size"
        )
    coded = payload[:-PAYLOAD_CRC_BYTES]
    indices = bitstream.prior.decode(coded, stages, grid.height, grid.width, rate_level)
    (expected,) = _CRC.unpack(payload[-PAYLOAD_CRC_BYTES:])
    if _indices_crc(indices, rate_level, bitstream) != expected:
        raise PayloadCorruptError(
            "the payload is damaged: its checksum does not fit; ask for the frame again"
        )
    return indices


def _indices_crc(indices: NDArray[np.int32], rate_level: int, bitstream: Bitstream) -> int:
    _, height, width = indices.shape
    meaning = bitstream.bitstream_id + struct.pack("<BHH", rate_level, height, width)
    return int(google_crc32c.value(meaning + indices.astype("<u2").tobytes()))


def to_bytes(frame: CompressedFrame) -> bytes:
    """A frame as the bytes of a `.ndsc` file.

    Raises GeometryError, RateLevelError or PayloadSizeError when a field does not fit its place in the file,
    ValueError when the bitstream id is not 16 bytes.
    """
    if not (1 <= frame.width <= 0xFFFF and 1 <= frame.height <= 0xFFFF):
        raise GeometryError(
            f"a .ndsc file holds frames of 1 to 65535 a side, not {frame.width}x{frame.height}"
        )
    if not 0 <= frame.rate_level <= 0xFF:
        raise RateLevelError(f"a .ndsc file holds rate levels 0 to 255, not {frame.rate_level}")
    if len(frame.bitstream_id) != BITSTREAM_ID_BYTES:
        raise ValueError(f"a bitstream id has {BITSTREAM_ID_BYTES} bytes, not {len(frame.bitstream_id)}")
    if len(frame.payload) > MAX_FRAME_FILE_BYTES - _HEADER.size - _CRC.size:
        raise PayloadSizeError(f"a .ndsc file holds no payload of {len(frame.payload)} bytes")
    header = _HEADER.pack(
        _MAGIC,
        FRAME_FILE_VERSION,
        frame.rate_level,
        frame.width,
        frame.height,
        frame.bitstream_id,
        len(frame.payload),
    )
    body = header + frame.payload
    return body + _CRC.pack(google_crc32c.value(body))


def from_bytes(data: bytes, name: str = "frame data") -> CompressedFrame:
    """Bytes of a `.ndsc` file → the frame. Raises FrameFileError, whose message starts with `name`."""
    if len(data) > MAX_FRAME_FILE_BYTES:
        raise FrameFileError(f"{name}: larger than any .ndsc file ({MAX_FRAME_FILE_BYTES} bytes)")
    if data[:4] != _MAGIC:
        raise FrameFileError(f"{name}: not a .ndsc file")
    if len(data) > 4 and data[4] != FRAME_FILE_VERSION:
        raise FrameFileError(f"{name}: .ndsc version {data[4]} is not known; this release reads version 1")
    if len(data) < _HEADER.size + _CRC.size:
        raise FrameFileError(f"{name}: truncated after {len(data)} bytes; copy the file again")
    body = data[: -_CRC.size]
    if _CRC.unpack(data[-_CRC.size :]) != (google_crc32c.value(body),):
        raise FrameFileError(f"{name}: damaged or truncated (its checksum does not fit); copy the file again")
    _, _, rate_level, width, height, bitstream_id, payload_bytes = _HEADER.unpack_from(body)
    payload = body[_HEADER.size :]
    if len(payload) != payload_bytes or not width or not height:
        raise FrameFileError(
            f"{name}: its header does not fit its content; it was not written by a sound encoder"
        )
    return CompressedFrame(bitstream_id, rate_level, width, height, payload)


def read_frame_file(path: str | Path) -> CompressedFrame:
    """Read one `.ndsc` file. Raises FrameFileError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FRAME_FILE_BYTES + 1)
    except OSError as error:
        raise FrameFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    return from_bytes(data, name=str(path))


def write_frame_file(path: str | Path, frame: CompressedFrame) -> None:
    """Write one `.ndsc` file, whole or not at all. Raises like `to_bytes`, and OutputError."""
    write_whole(path, to_bytes(frame))
