"""Checks of fields that strangers fill in. Each raises RefusedError with one clear line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ndsc.service.errors import FIELD_INVALID, GEOMETRY_UNSUPPORTED, RefusedError
from ndsc.service.identity import is_name
from ndsc.v1.types_pb2 import Clock

MAX_STREAMS: Final = 8
MAX_SEQUENCE: Final = 1 << 40
SESSION_ID_BYTES: Final = 16
BITSTREAM_ID_BYTES: Final = 16
_MAX_FRAME_ID_CHARACTERS: Final = 256


def check_name(what: str, text: str) -> str:
    """`text` when it can name a rig, a camera or a stream."""
    if not is_name(text):
        raise RefusedError(
            FIELD_INVALID, f"{what} must be 1 to 64 of the characters A-Z a-z 0-9 _ . -, not {text[:80]!r}"
        )
    return text


def check_session_id(session_id: bytes) -> bytes:
    """`session_id` when it has its 16 bytes."""
    if len(session_id) != SESSION_ID_BYTES:
        raise RefusedError(FIELD_INVALID, f"session_id must have 16 bytes, not {len(session_id)}")
    return session_id


def check_bitstream_id(bitstream_id: bytes) -> bytes:
    """`bitstream_id` when it has its 16 bytes."""
    if len(bitstream_id) != BITSTREAM_ID_BYTES:
        raise RefusedError(FIELD_INVALID, f"bitstream_id must have 16 bytes, not {len(bitstream_id)}")
    return bitstream_id


def check_sequence(sequence: int) -> int:
    """`sequence` when a store can hold it: a camera of 100 Hz counts so far in 348 years."""
    if not 0 <= sequence < MAX_SEQUENCE:
        raise RefusedError(FIELD_INVALID, f"sequence {sequence} is beyond {MAX_SEQUENCE - 1}")
    return sequence


def check_clock(clock: Clock, frame_id: str) -> None:
    """Refuse a clock this version does not know, and a frame id that is too long to keep."""
    if clock not in Clock.values():
        raise RefusedError(FIELD_INVALID, f"clock {clock} is not known")
    if len(frame_id) > _MAX_FRAME_ID_CHARACTERS:
        raise RefusedError(FIELD_INVALID, f"frame_id has more than {_MAX_FRAME_ID_CHARACTERS} characters")


def check_streams(streams: Sequence[str]) -> tuple[str, ...]:
    """The side-information streams of a session: few, named, each once."""
    if len(streams) > MAX_STREAMS or len(set(streams)) != len(streams):
        raise RefusedError(
            FIELD_INVALID, f"side_information_streams must be at most {MAX_STREAMS} names, each once"
        )
    return tuple(check_name("a side-information stream", stream) for stream in streams)


def check_pixels(width: int, height: int, most: int) -> None:
    """Refuse frames larger than the settings allow (GEOMETRY_UNSUPPORTED)."""
    if width * height > most:
        raise RefusedError(
            GEOMETRY_UNSUPPORTED,
            f"frames of {width}x{height} pixels are larger than this server takes ({most} pixels)",
        )
