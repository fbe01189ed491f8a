"""The durable store: compressed frames, kept before they are acknowledged, and their side information."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final

from decoder_service.records import (
    SCHEMA,
    FrameRow,
    FrameState,
    SessionKind,
    SideRow,
    StoredFrame,
    StoredSession,
    Usage,
)
from decoder_service.retention import Retention
from ndsc.service.sqlite import Committer, Database, StoreFullError

__all__ = [
    "Archive",
    "AsyncArchive",
    "FrameRow",
    "FrameState",
    "SideRow",
    "StoreFullError",
    "StoredFrame",
    "StoredSession",
    "Usage",
]

_MIN_TIME_US: Final = -(1 << 63)
_MAX_TIME_US: Final = (1 << 63) - 1


class Archive:
    """Compressed frames and side information, in one file of a folder that one decoder holds.

    What is stored twice is kept once. Frames that wait to be decoded are never let go of. Everything else goes
    `keep_us` after it was stored (`retention.expire`) and, oldest first, as soon as room is needed; side
    information near in time to a waiting frame of its rig outlives the rest, and `retention.needed_lost` counts
    what had to go even so. Sessions stay, a few hundred bytes each: their sequences must not be taken twice.

    What a method wrote is on disk when it returns, or when the transaction around it ends
    (`database.transaction`). The file grows to `capacity_bytes`, and keeps the size it once had. Every method
    may raise StoreError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        capacity_bytes: int,
        keep_us: int,
        tolerance_us: int,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """Open the archive in `folder`, or make one. Raises StoreError, also when another decoder holds it.

        `tolerance_us` is the largest time between a frame and its side information; `clock` gives microseconds
        since the Unix epoch.
        """
        self.database = Database(folder / "archive.sqlite", SCHEMA, capacity_bytes=capacity_bytes)
        self.retention = Retention(self.database, keep_us=keep_us, tolerance_us=tolerance_us, clock=clock)
        self._clock = clock

    def close(self) -> None:
        """Let go of the file, for another decoder to take."""
        self.database.close()

    def store(self, row: FrameRow) -> bool:
        """Keep a frame to be decoded; False when it was there already, or has failed.

        Raises StoreFullError when frames that wait to be decoded take all the room.
        """
        with self.database.transaction():
            self.retention.make_room(len(row.payload) + len(row.opening))
            return self._insert(row, FrameState.WAITING, 0)

    def fail(
        self,
        rig: str,
        camera: str,
        session_id: bytes,
        sequence: int,
        reason: int,
        *,
        opening: bytes,
        dropped_before: int = 0,
    ) -> bool:
        """Count a frame that is refused before it is stored, so that it is not asked for again.

        False when it was there already: nothing changes. `reason` is an ErrorReason.
        """
        row = FrameRow(rig, camera, session_id, sequence, opening, b"", 0, 0, b"", 0, dropped_before)
        with self.database.transaction():
            self.retention.make_room(len(opening))
            return self._insert(row, FrameState.FAILED, reason)

    def _insert(self, row: FrameRow, state: FrameState, reason: int) -> bool:
        camera = self._camera(row.rig, row.camera)
        session = self._session(camera, row.session_id, SessionKind.CAMERA)
        opening = self._opening(row.opening)
        inserted = self.database.value(
            "INSERT INTO frame (session, sequence, camera, opening, bitstream_id, capture_time_us, rate_level,"
            " payload, frame_bytes, dropped_before, stored_at_us, state, reason)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING number",
            *(session, row.sequence, camera, opening, *astuple(row)[5:], self._clock(), state, reason),
        )
        if inserted is None:
            return False
        self.database.connection.execute(
            "UPDATE session SET last_sequence = max(last_sequence, ?), opening = ?, dropped = dropped + ?,"
            " waiting = waiting + ?, failed = failed + ? WHERE number = ?",
            (
                row.sequence,
                opening,
                row.dropped_before,
                state == FrameState.WAITING,
                state == FrameState.FAILED,
                session,
            ),
        )
        return True

    def mark_decoded(self, number: int) -> bool:
        """A waiting frame is decoded now. True once for each frame: whoever gets it may publish the picture."""
        return self._mark(number, FrameState.DECODED, 0)

    def mark_failed(self, number: int, reason: int) -> bool:
        """A waiting frame cannot be decoded, for an ErrorReason. True once for each frame."""
        return self._mark(number, FrameState.FAILED, reason)

    def _mark(self, number: int, state: FrameState, reason: int) -> bool:
        with self.database.transaction() as connection:
            session = self.database.value(
                "UPDATE frame SET state = ?, reason = ? WHERE number = ? AND state = 0 RETURNING session",
                *(state, reason, number),
            )
            connection.execute(
                "UPDATE session SET waiting = waiting - 1, decoded = decoded + ?, failed = failed + ?"
                " WHERE number = ?",
                (state == FrameState.DECODED, state == FrameState.FAILED, session),
            )
        self.retention.fewer_wait()
        return session is not None

    def pending(self, rig: str, camera: str, *, after: int = 0, limit: int = 16) -> list[StoredFrame]:
        """A camera's waiting frames in order of storing, past the frame that has the number `after`."""
        return self._frames(
            "SELECT * FROM stored_frame WHERE rig = ? AND name = ? AND state = 0 AND number > ?"
            " ORDER BY number LIMIT ?",
            *(rig, camera, after, limit),
        )

    def cameras_with_pending(self) -> list[tuple[str, str]]:
        """(rig, camera) of those that have frames waiting."""
        with self.database.transaction() as connection:
            return connection.execute(
                "SELECT rig, name FROM camera"
                " WHERE EXISTS (SELECT 1 FROM frame WHERE frame.camera = camera.number AND state = 0)"
            ).fetchall()

    def frames(
        self,
        rig: str,
        camera: str,
        *,
        session_id: bytes | None = None,
        from_time_us: int = _MIN_TIME_US,
        to_time_us: int = _MAX_TIME_US,
        limit: int = 1000,
    ) -> list[StoredFrame]:
        """A camera's frames by capture time in [from, to), whatever became of them, to be decoded again."""
        return self._frames(
            "SELECT * FROM stored_frame WHERE rig = ? AND name = ? AND (session_id = ? OR ? IS NULL)"
            " AND capture_time_us >= ? AND capture_time_us < ? AND payload <> x''"
            " ORDER BY capture_time_us, number LIMIT ?",
            *(rig, camera, session_id, session_id, from_time_us, to_time_us, limit),
        )

    def _frames(self, query: str, *parameters: Any) -> list[StoredFrame]:
        with self.database.transaction() as connection:
            rows = connection.execute(query, parameters).fetchall()
        return [
            StoredFrame(number, FrameState(state), reason, stored_at_us, FrameRow(*row))
            for number, state, reason, stored_at_us, *row in rows
        ]

    def session(self, rig: str, camera: str, session_id: bytes) -> StoredSession | None:
        """A camera session, or None when none of its frames was ever stored or failed."""
        found = self._sessions(
            "SELECT * FROM stored_session WHERE kind = ? AND rig = ? AND name = ? AND session_id = ?",
            *(SessionKind.CAMERA, rig, camera, session_id),
        )
        return found[0] if found else None

    def sessions(self) -> list[StoredSession]:
        """All camera sessions, oldest first."""
        return self._sessions(
            "SELECT * FROM stored_session WHERE kind = ? ORDER BY number", SessionKind.CAMERA
        )

    def _sessions(self, query: str, *parameters: Any) -> list[StoredSession]:
        with self.database.transaction() as connection:
            return [StoredSession(*row[2:]) for row in connection.execute(query, parameters)]

    def put_side(self, row: SideRow) -> bool:
        """Keep side information; False when it was there already. Raises StoreFullError as `store` does."""
        with self.database.transaction() as connection:
            self.retention.make_room(len(row.data))
            camera = self._camera(row.rig, row.camera)
            session = self._session(camera, row.session_id, SessionKind.SIDE_INFORMATION)
            inserted = self.database.value(
                "INSERT INTO side (session, camera, stored_at_us, sequence, capture_time_us, format, width,"
                " height, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING number",
                *(session, camera, self._clock(), *astuple(row)[3:]),
            )
            connection.execute(
                "UPDATE session SET last_sequence = max(last_sequence, ?) WHERE number = ?",
                (row.sequence, session),
            )
            if inserted is not None:
                connection.execute(
                    "UPDATE camera SET newest_side_us = ? WHERE number = ?", (row.capture_time_us, camera)
                )
        return inserted is not None

    def last_side_sequence(self, rig: str, camera: str, session_id: bytes) -> int:
        """The highest sequence stored of a side-information session; 0: none."""
        with self.database.transaction():
            last = self.database.value(
                "SELECT last_sequence FROM stored_session"
                " WHERE kind = ? AND rig = ? AND name = ? AND session_id = ?",
                *(SessionKind.SIDE_INFORMATION, rig, camera, session_id),
            )
        return int(last or 0)

    def nearest_side(
        self, rig: str, camera: str, capture_time_us: int, tolerance_us: int, *, width: int, height: int
    ) -> SideRow | None:
        """Side information of this size nearest in time, within the tolerance; of two equally near, the earlier.

        Of frames with one capture time, the one that arrived last.
        """
        stream = (rig, camera, width, height)
        with self.database.transaction() as connection:
            before = connection.execute(
                "SELECT * FROM stored_side WHERE rig = ? AND name = ? AND width = ? AND height = ?"
                " AND capture_time_us BETWEEN ? AND ? ORDER BY capture_time_us DESC, number DESC LIMIT 1",
                (*stream, capture_time_us - tolerance_us, capture_time_us),
            ).fetchall()
            after = connection.execute(
                "SELECT * FROM stored_side WHERE rig = ? AND name = ? AND width = ? AND height = ?"
                " AND capture_time_us BETWEEN ? AND ? ORDER BY capture_time_us, number DESC LIMIT 1",
                (*stream, capture_time_us + 1, capture_time_us + tolerance_us),
            ).fetchall()
        rows = [SideRow(*row[1:]) for row in before + after]
        return min(rows, key=lambda row: abs(row.capture_time_us - capture_time_us), default=None)

    def newest_side_time(self, rig: str, camera: str) -> int | None:
        """Capture time (µs) of what was stored last of a stream, or None. Its clock may have stepped back."""
        with self.database.transaction():
            newest = self.database.value(
                "SELECT newest_side_us FROM camera WHERE rig = ? AND name = ?", rig, camera
            )
        return None if newest is None else int(newest)

    def usage(self) -> Usage:
        """How much the archive holds."""
        with self.database.transaction():
            return Usage(
                frames=self.database.value("SELECT count(*) FROM frame"),
                side_frames=self.database.value("SELECT count(*) FROM side"),
                waiting_frames=self.database.value("SELECT coalesce(sum(waiting), 0) FROM session"),
                used_bytes=self.database.used_bytes,
                needed_side_frames_lost=self.retention.needed_lost,
            )

    def _camera(self, rig: str, name: str) -> int:
        self.database.connection.execute(
            "INSERT OR IGNORE INTO camera (rig, name) VALUES (?, ?)", (rig, name)
        )
        return int(self.database.value("SELECT number FROM camera WHERE rig = ? AND name = ?", rig, name))

    def _session(self, camera: int, session_id: bytes, kind: SessionKind) -> int:
        key = (camera, session_id, kind)
        self.database.connection.execute(
            "INSERT OR IGNORE INTO session (camera, session_id, kind) VALUES (?, ?, ?)", key
        )
        return int(
            self.database.value(
                "SELECT number FROM session WHERE camera = ? AND session_id = ? AND kind = ?", *key
            )
        )

    def _opening(self, opening: bytes) -> int:
        self.database.connection.execute("INSERT OR IGNORE INTO opening (opening) VALUES (?)", (opening,))
        return int(self.database.value("SELECT number FROM opening WHERE opening = ?", opening))


class AsyncArchive:
    """An archive behind a thread of its own, for the event loop.

    What many ask for at once is committed in one transaction. Each method is that of `Archive`.
    """

    def __init__(self, archive: Archive) -> None:
        """Takes the archive over: `close` closes it."""
        self._archive = archive
        self._committer = Committer(archive.database)

    async def store(self, row: FrameRow) -> bool:
        """See `Archive.store`."""
        return await self._committer.run(lambda: self._archive.store(row))

    async def fail(
        self,
        rig: str,
        camera: str,
        session_id: bytes,
        sequence: int,
        reason: int,
        *,
        opening: bytes,
        dropped_before: int = 0,
    ) -> bool:
        """See `Archive.fail`."""
        return await self._committer.run(
            lambda: self._archive.fail(
                rig, camera, session_id, sequence, reason, opening=opening, dropped_before=dropped_before
            )
        )

    async def mark_decoded(self, number: int) -> bool:
        """See `Archive.mark_decoded`."""
        return await self._committer.run(lambda: self._archive.mark_decoded(number))

    async def mark_failed(self, number: int, reason: int) -> bool:
        """See `Archive.mark_failed`."""
        return await self._committer.run(lambda: self._archive.mark_failed(number, reason))

    async def pending(self, rig: str, camera: str, *, after: int = 0, limit: int = 16) -> list[StoredFrame]:
        """See `Archive.pending`."""
        return await self._committer.run(lambda: self._archive.pending(rig, camera, after=after, limit=limit))

    async def cameras_with_pending(self) -> list[tuple[str, str]]:
        """See `Archive.cameras_with_pending`."""
        return await self._committer.run(self._archive.cameras_with_pending)

    async def session(self, rig: str, camera: str, session_id: bytes) -> StoredSession | None:
        """See `Archive.session`."""
        return await self._committer.run(lambda: self._archive.session(rig, camera, session_id))

    async def sessions(self) -> list[StoredSession]:
        """See `Archive.sessions`."""
        return await self._committer.run(self._archive.sessions)

    async def put_side(self, row: SideRow) -> bool:
        """See `Archive.put_side`."""
        return await self._committer.run(lambda: self._archive.put_side(row))

    async def last_side_sequence(self, rig: str, camera: str, session_id: bytes) -> int:
        """See `Archive.last_side_sequence`."""
        return await self._committer.run(lambda: self._archive.last_side_sequence(rig, camera, session_id))

    async def nearest_side(
        self, rig: str, camera: str, capture_time_us: int, tolerance_us: int, *, width: int, height: int
    ) -> SideRow | None:
        """See `Archive.nearest_side`."""
        return await self._committer.run(
            lambda: self._archive.nearest_side(
                rig, camera, capture_time_us, tolerance_us, width=width, height=height
            )
        )

    async def newest_side_time(self, rig: str, camera: str) -> int | None:
        """See `Archive.newest_side_time`."""
        return await self._committer.run(lambda: self._archive.newest_side_time(rig, camera))

    async def usage(self) -> Usage:
        """See `Archive.usage`."""
        return await self._committer.run(self._archive.usage)

    async def expire(self) -> int:
        """Let go of all that is past its time, step by step, with other work between; returns how many went."""
        gone = 0
        while True:
            step = await self._committer.run(self._archive.retention.expire)
            gone += step.rows
            if not step.more:
                return gone

    async def flush(self) -> None:
        """Return once all that was asked for before is on disk, or has failed."""
        await self._committer.run(lambda: None)

    async def close(self) -> None:
        """Commit what was asked for, and let go of the file."""
        await self._committer.close()
