"""Frames that wait on a camera node's disk until the decoder has stored them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ndsc.service.sqlite import Database, Schema

_SEQUENCE_BITS: Final = 40
_MAX_SEQUENCE: Final = (1 << _SEQUENCE_BITS) - 1
_ROW_OVERHEAD_BYTES: Final = 512
# In one transaction: more would need room for itself on a disk that may be full.
_DELETED_ROWS: Final = 1024
_READ_BYTES: Final = 8 << 20

# A frame's position is its session's number and its sequence in one integer, so that one key orders, finds and
# deletes. What was acknowledged is kept beside the frames: the next sequence outlives the last of them.
_SCHEMA: Final = Schema(
    kind="spool",
    application_id=0x4E445350,  # "NDSP"
    version=1,
    script="""
    CREATE TABLE session (
        number INTEGER PRIMARY KEY,
        session_id BLOB NOT NULL UNIQUE,
        key BLOB NOT NULL,
        acknowledged INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE opening (number INTEGER PRIMARY KEY, opening BLOB NOT NULL UNIQUE) STRICT;
    CREATE TABLE frame (
        position INTEGER PRIMARY KEY,
        opening INTEGER NOT NULL REFERENCES opening,
        capture_time_us INTEGER NOT NULL,
        rate_level INTEGER NOT NULL,
        dropped_before INTEGER NOT NULL,
        data BLOB NOT NULL
    ) STRICT;
    CREATE VIEW waiting AS
        SELECT position, session_id, opening.opening AS opening, capture_time_us, rate_level, dropped_before, data
        FROM frame JOIN session ON session.number = position >> 40
            JOIN opening ON opening.number = frame.opening
    """,
)


@dataclass(frozen=True)
class SpoolFrame:
    """One frame that waits, and the session it belongs to."""

    position: int
    """Its place in the spool, for `Spool.read`."""
    session_id: bytes
    opening: bytes
    """As given to `append`."""
    sequence: int
    capture_time_us: int
    rate_level: int
    dropped_before: int
    """Frames given up since the one before this."""
    data: bytes


class Spool:
    """Frames in order of (session, sequence), in one file of a folder that one node holds.

    The session and its next sequence outlive the process, and a power cut as far as the disk tells the truth.
    The file grows to `capacity_bytes` at most, and keeps the size it once had. One call at a time;
    every method may raise StoreError.
    """

    def __init__(self, folder: Path, *, capacity_bytes: int) -> None:
        """Open the spool in `folder`, or make one. Raises StoreError, also when another node holds it."""
        self._database = Database(folder / "spool.sqlite", _SCHEMA, capacity_bytes=capacity_bytes)
        self._session = 0
        self._next_sequence = 1

    def begin(self, session_key: bytes) -> bytes:
        """Id (16 bytes) of the session that frames belong to from now on.

        `session_key` is whatever must be the same for all frames of a session. Where it equals that of the
        newest session, that session goes on; else a new one begins, and frames of the old one are sent first.
        """
        with self._database.transaction() as connection:
            newest = connection.execute(
                "SELECT number, session_id, key FROM session ORDER BY number DESC LIMIT 1"
            ).fetchone()
            number, session_id, key = newest or (0, b"", None)
            if key != session_key:
                number, session_id = number + 1, secrets.token_bytes(16)
                connection.execute(
                    "DELETE FROM session WHERE NOT EXISTS"
                    " (SELECT 1 FROM frame WHERE position BETWEEN number << 40 AND (number + 1) << 40)"
                )
                connection.execute(
                    "INSERT INTO session (number, session_id, key) VALUES (?, ?, ?)",
                    (number, session_id, session_key),
                )
            self._session, self._next_sequence = number, self._last(number) + 1
        return bytes(session_id)

    @property
    def next_sequence(self) -> int:
        """What the next frame of the session will get; counts from 1."""
        return self._next_sequence

    def append(
        self,
        data: bytes,
        *,
        opening: bytes,
        capture_time_us: int,
        rate_level: int = 0,
        dropped_before: int = 0,
    ) -> int:
        """Keep one frame of the session; it is on disk when its sequence is returned.

        `opening` says what the frame means; each different one is stored once. Raises StoreFullError: nothing was
        written, and the sequence goes to the next frame.
        """
        if not self._session:
            raise RuntimeError("begin a session first")
        sequence = self._next_sequence
        with self._database.transaction() as connection:
            self._database.check_room(len(data) + len(opening) + _ROW_OVERHEAD_BYTES)
            connection.execute("INSERT OR IGNORE INTO opening (opening) VALUES (?)", (opening,))
            connection.execute(
                "INSERT INTO frame SELECT ?, number, ?, ?, ?, ? FROM opening WHERE opening = ?",
                (
                    _position(self._session, sequence),
                    capture_time_us,
                    rate_level,
                    dropped_before,
                    data,
                    opening,
                ),
            )
        self._next_sequence = sequence + 1
        return sequence

    def read(self, after: int = 0, limit: int = 64) -> list[SpoolFrame]:
        """The next frames after a position, oldest session first; position 0 is before all.

        Fewer than `limit` when they are large: one at least, and no more once there are 8 MiB.
        """
        frames: list[SpoolFrame] = []
        read_bytes = 0
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM waiting WHERE position > ? ORDER BY position LIMIT ?", (after, limit)
            )
            for position, session_id, opening, *rest in rows:
                frame = SpoolFrame(position, session_id, opening, position & _MAX_SEQUENCE, *rest)
                frames.append(frame)
                read_bytes += len(frame.data)
                if read_bytes >= _READ_BYTES:
                    break
            rows.close()
        return frames

    def acknowledge(self, session_id: bytes, up_to_sequence: int) -> int:
        """Let go of a session's frames up to a sequence; returns how many went.

        Sequences up to it are never given again, even if this spool never gave them (it may be an old copy).
        An unknown session is one that is done with. Raises StoreFullError on a disk with no byte left: the
        frames stay, and may be acknowledged again.
        """
        if not 0 <= up_to_sequence < _MAX_SEQUENCE:
            raise ValueError(f"no such sequence: {up_to_sequence}")
        gone, more = 0, True
        while more:
            with self._database.transaction() as connection:
                number = self._number(session_id)
                deleted = connection.execute(
                    "DELETE FROM frame WHERE position IN"
                    " (SELECT position FROM frame WHERE position BETWEEN ? AND ? ORDER BY position LIMIT ?)",
                    (_position(number, 0), _position(number, up_to_sequence), _DELETED_ROWS),
                ).rowcount
                connection.execute(
                    "UPDATE session SET acknowledged = ? WHERE number = ? AND acknowledged < ?",
                    (up_to_sequence, number, up_to_sequence),
                )
            gone, more = gone + deleted, deleted == _DELETED_ROWS
        if number and number == self._session:
            self._next_sequence = max(self._next_sequence, up_to_sequence + 1)
        return gone

    def first_unacknowledged(self, session_id: bytes) -> int:
        """The lowest sequence held of a session or, when none is, the next one it would give."""
        with self._database.transaction():
            number = self._number(session_id)
            first = self._database.value(
                "SELECT min(position) FROM frame WHERE position BETWEEN ? AND ?", *_span(number)
            )
            return self._last(number) + 1 if first is None else int(first) & _MAX_SEQUENCE

    @property
    def frames(self) -> int:
        """Frames that wait, of all sessions."""
        with self._database.transaction() as connection:
            return sum(self._held(number) for (number,) in connection.execute("SELECT number FROM session"))

    @property
    def used_bytes(self) -> int:
        """Bytes that the spool takes of its capacity."""
        return self._database.used_bytes

    def close(self) -> None:
        """Let go of the file, for another node to take."""
        self._database.close()

    def _number(self, session_id: bytes) -> int:
        return int(self._database.value("SELECT number FROM session WHERE session_id = ?", session_id) or 0)

    def _last(self, number: int) -> int:
        """The highest sequence that a session gave."""
        newest = self._database.value(
            "SELECT max(position) FROM frame WHERE position BETWEEN ? AND ?", *_span(number)
        )
        acknowledged = self._database.value("SELECT acknowledged FROM session WHERE number = ?", number)
        return max(int(newest or 0) & _MAX_SEQUENCE, int(acknowledged or 0))

    def _held(self, number: int) -> int:
        # A session's frames have no gaps: they are appended one by one and go from the front. Counting rows
        # would read them all.
        first, last = self._database.connection.execute(
            "SELECT (SELECT min(position) FROM frame WHERE position BETWEEN ?1 AND ?2),"
            " (SELECT max(position) FROM frame WHERE position BETWEEN ?1 AND ?2)",
            _span(number),
        ).fetchone()
        return 0 if first is None else int(last - first + 1)


def _position(session: int, sequence: int) -> int:
    return session << _SEQUENCE_BITS | sequence


def _span(session: int) -> tuple[int, int]:
    return _position(session, 0), _position(session, _MAX_SEQUENCE)
