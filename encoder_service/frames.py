"""A frame on its way through a camera node: captured, coded, numbered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ndsc.sources import SourceFrame


@dataclass(frozen=True, eq=False)
class Captured:
    """A frame as it was captured."""

    frame: SourceFrame
    ordinal: int
    """Counts the frames of this run from 1."""
    at_s: float
    """When it came, by the monotonic clock: capture times may be of another clock, or of a file."""


@dataclass(frozen=True, eq=False)
class Coded:
    """A frame as it will travel."""

    opening: bytes
    """The session's constants it must be sent under: an open message without session, sequence and epoch."""
    capture_time_us: int
    rate_level: int
    """0 for side information."""
    data: bytes
    """Payload (cameras) or serialized image (side information)."""


class CallKey(NamedTuple):
    """What all frames of one call have in common."""

    session_id: bytes
    opening: bytes


@dataclass(frozen=True, eq=False)
class Numbered:
    """A coded frame with its place in the session."""

    key: CallKey
    sequence: int
    capture_time_us: int
    rate_level: int
    data: bytes
    dropped_before: int
    """Frames given up since the one before this."""
    at_s: float
    """When it was captured, by the monotonic clock; 0 for frames from the spool."""
