"""What the archive lets go of, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ndsc.service.sqlite import Database, StoreFullError

_ROW_OVERHEAD_BYTES: Final = 1024
_EVICTED_ROWS: Final = 16
_EXPIRED_ROWS: Final = 64
_LOOKED_AT_ROWS: Final = 2048
_NEVER_US: Final = (1 << 63) - 1
_DELETE: Final = {
    "frame": "DELETE FROM frame WHERE number = ?",
    "side": "DELETE FROM side WHERE number = ?",
}


@dataclass(frozen=True)
class Expired:
    """What one step of `Retention.expire` let go of."""

    rows: int
    more: bool
    """Whether another step may find more."""


class Retention:
    """Frames that wait to be decoded never go. The rest goes when its time is over or, oldest first, for room.

    Side information that lies within the tolerance of a waiting frame of its rig stays for as long as anything
    else can go.
    """

    def __init__(
        self, database: Database, *, keep_us: int, tolerance_us: int, clock: Callable[[], int]
    ) -> None:
        self.needed_lost = 0
        """Side information let go of since the start, though a waiting frame may have needed it."""
        self._database = database
        self._keep_us = keep_us
        self._tolerance_us = tolerance_us
        self._clock = clock
        # Side information up to this number was needed when it was last looked at; looking at all of it for each
        # row would take seconds while many frames wait.
        self._looked_at = 0
        self._fewer_wait = False

    def fewer_wait(self) -> None:
        """A frame does not wait any more: what it needed may go."""
        self._fewer_wait = True

    def make_room(self, data_bytes: int) -> None:
        """Let go of as much as one more row takes.

        Raises StoreFullError when that is not enough; the transaction around it must then be undone.
        """
        lost_before = self.needed_lost
        while True:
            try:
                return self._database.check_room(data_bytes + _ROW_OVERHEAD_BYTES)
            except StoreFullError:
                if not self._evict():
                    self.needed_lost = lost_before
                    raise

    def expire(self) -> Expired:
        """One short step of letting go of what was stored longer ago than it is kept."""
        with self._database.transaction():
            rows, more = self._disposable(_EXPIRED_ROWS, self._clock() - self._keep_us)
            self._delete(rows)
        if not more:
            self._looked_at = 0
        return Expired(len(rows), more)

    def _evict(self) -> bool:
        """Let go of a few rows, the oldest that no one needs; False when there is nothing that may go."""
        more = True
        while more:
            rows, more = self._disposable(_EVICTED_ROWS, _NEVER_US)
            if rows:
                self._delete(rows)
                return True
            if not more and self._fewer_wait:
                self._looked_at, self._fewer_wait, more = 0, False, True
        needed = self._database.connection.execute(
            "SELECT 'side', number FROM side ORDER BY number LIMIT ?", (_EVICTED_ROWS,)
        ).fetchall()
        self._delete(needed)
        self.needed_lost += len(needed)
        return bool(needed)

    def _disposable(self, limit: int, stored_before_us: int) -> tuple[list[tuple[str, int]], bool]:
        """(table, number) of the oldest rows that may go; whether there may be more than these."""
        found = self._database.connection.execute(
            "SELECT stored_at_us, 'frame', number FROM frame"
            " WHERE state <> 0 AND stored_at_us < ? ORDER BY stored_at_us LIMIT ?",
            (stored_before_us, limit),
        ).fetchall()
        side, more = self._unneeded_side(limit, stored_before_us)
        found = sorted(found + side)[:limit]
        return [(table, number) for _, table, number in found], more or len(found) == limit

    def _unneeded_side(self, limit: int, stored_before_us: int) -> tuple[list[tuple[int, str, int]], bool]:
        # The index is named because the other one would read all waiting frames of a camera for each row.
        rows = self._database.connection.execute(
            "SELECT stored_at_us, number, EXISTS ("
            "  SELECT 1 FROM frame INDEXED BY frame_time WHERE state = 0 AND frame.camera IN ("
            "    SELECT number FROM camera WHERE rig = (SELECT rig FROM camera WHERE number = side.camera))"
            "  AND frame.capture_time_us BETWEEN side.capture_time_us - ?1 AND side.capture_time_us + ?1)"
            " FROM side WHERE number > ?2 ORDER BY number LIMIT ?3",
            (self._tolerance_us, self._looked_at, _LOOKED_AT_ROWS),
        )
        found: list[tuple[int, str, int]] = []
        looked_at = 0
        for stored_at_us, number, needed in rows:
            if stored_at_us >= stored_before_us or len(found) == limit:
                break
            looked_at += 1
            if not needed:
                found.append((stored_at_us, "side", number))
            elif not found:
                self._looked_at = number
        return found, looked_at == _LOOKED_AT_ROWS

    def _delete(self, rows: list[tuple[str, int]]) -> None:
        for table, statement in _DELETE.items():
            numbers = [(number,) for kind, number in rows if kind == table]
            self._database.connection.executemany(statement, numbers)
