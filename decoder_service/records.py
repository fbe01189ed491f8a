"""What the archive holds: compressed frames, side information and sessions, and the tables they lie in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ndsc.service.sqlite import Schema


class FrameState(IntEnum):
    """What became of a frame."""

    WAITING = 0
    """Stored, not decoded yet."""
    DECODED = 1
    FAILED = 2


class SessionKind(IntEnum):
    """What a session carries."""

    CAMERA = 0
    SIDE_INFORMATION = 1


# The indexes are for: a camera's waiting frames in order, the oldest done ones, and both kinds by capture time.
# Numbers of frames are never used again (AUTOINCREMENT): whoever holds one can do no harm to another frame.
SCHEMA: Final = Schema(
    kind="archive",
    application_id=0x4E444152,  # "NDAR"
    version=1,
    script="""
    CREATE TABLE camera (
        number INTEGER PRIMARY KEY,
        rig TEXT NOT NULL,
        name TEXT NOT NULL,
        newest_side_us INTEGER,
        UNIQUE (rig, name)
    ) STRICT;
    CREATE TABLE opening (number INTEGER PRIMARY KEY, opening BLOB NOT NULL UNIQUE) STRICT;
    CREATE TABLE session (
        number INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,
        camera INTEGER NOT NULL REFERENCES camera,
        session_id BLOB NOT NULL,
        opening INTEGER REFERENCES opening,
        last_sequence INTEGER NOT NULL DEFAULT 0,
        waiting INTEGER NOT NULL DEFAULT 0,
        decoded INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        dropped INTEGER NOT NULL DEFAULT 0,
        UNIQUE (camera, session_id, kind)
    ) STRICT;
    CREATE TABLE frame (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        session INTEGER NOT NULL REFERENCES session,
        sequence INTEGER NOT NULL,
        camera INTEGER NOT NULL REFERENCES camera,
        opening INTEGER NOT NULL REFERENCES opening,
        bitstream_id BLOB NOT NULL,
        capture_time_us INTEGER NOT NULL,
        rate_level INTEGER NOT NULL,
        dropped_before INTEGER NOT NULL,
        frame_bytes INTEGER NOT NULL,
        stored_at_us INTEGER NOT NULL,
        state INTEGER NOT NULL,
        reason INTEGER NOT NULL,
        payload BLOB NOT NULL,
        UNIQUE (session, sequence)
    ) STRICT;
    CREATE INDEX frame_waiting ON frame (camera) WHERE state = 0;
    CREATE INDEX frame_done ON frame (stored_at_us) WHERE state <> 0;
    CREATE INDEX frame_time ON frame (camera, capture_time_us);
    CREATE TABLE side (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        session INTEGER NOT NULL REFERENCES session,
        sequence INTEGER NOT NULL,
        camera INTEGER NOT NULL REFERENCES camera,
        capture_time_us INTEGER NOT NULL,
        stored_at_us INTEGER NOT NULL,
        format INTEGER NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        data BLOB NOT NULL,
        UNIQUE (session, sequence)
    ) STRICT;
    CREATE INDEX side_time ON side (camera, capture_time_us);
    CREATE VIEW stored_session AS
        SELECT session.number AS number, kind, rig, name, session_id, coalesce(opening.opening, x'') AS opening,
            last_sequence, waiting, decoded, failed, dropped
        FROM session JOIN camera ON camera.number = camera LEFT JOIN opening ON opening.number = session.opening;
    CREATE VIEW stored_frame AS
        SELECT frame.number AS number, state, reason, stored_at_us, rig, name, session_id, sequence,
            opening.opening AS opening, bitstream_id, capture_time_us, rate_level, payload, frame_bytes,
            dropped_before
        FROM frame JOIN camera ON camera.number = frame.camera JOIN session ON session.number = session
            JOIN opening ON opening.number = frame.opening;
    CREATE VIEW stored_side AS
        SELECT side.number AS number, rig, name, session_id, sequence, capture_time_us, format, width, height,
            data
        FROM side JOIN camera ON camera.number = side.camera JOIN session ON session.number = session
    """,
)


@dataclass(frozen=True)
class FrameRow:
    """A compressed frame as it arrived, known by (rig, camera, session_id, sequence)."""

    rig: str
    camera: str
    session_id: bytes
    """16 bytes."""
    sequence: int
    opening: bytes
    """What the frame was sent under, in the caller's own form; each different one is stored once."""
    bitstream_id: bytes
    """16 bytes."""
    capture_time_us: int
    rate_level: int
    payload: bytes
    frame_bytes: int
    """Size of the Frame message."""
    dropped_before: int = 0
    """Frames the node gave up since the one before this."""


@dataclass(frozen=True)
class StoredFrame:
    """A frame of the archive."""

    number: int
    """Names it for good; grows in order of storing."""
    state: FrameState
    reason: int
    """The ErrorReason of a frame that failed, else 0."""
    stored_at_us: int
    row: FrameRow


@dataclass(frozen=True)
class SideRow:
    """A side-information frame y as it arrived, known by (rig, camera, session_id, sequence)."""

    rig: str
    camera: str
    session_id: bytes
    """16 bytes."""
    sequence: int
    capture_time_us: int
    format: int
    """ImageFormat of `data`."""
    width: int
    height: int
    data: bytes


@dataclass(frozen=True)
class StoredSession:
    """A camera session and its account over its whole life, frames that have expired since included."""

    rig: str
    camera: str
    session_id: bytes
    opening: bytes
    """The newest frame's."""
    last_sequence: int
    """The highest that is stored or failed."""
    waiting: int
    """Frames stored and not decoded yet."""
    decoded: int
    failed: int
    dropped: int
    """Frames that the node reported as given up."""


@dataclass(frozen=True)
class Usage:
    """How much the archive holds."""

    frames: int
    """Compressed frames, those that failed included."""
    side_frames: int
    waiting_frames: int
    """Compressed frames that are not decoded yet."""
    used_bytes: int
    """Of the capacity."""
    needed_side_frames_lost: int
    """Side information let go of since the start for want of room, though a waiting frame may have needed it."""
