"""A durable store: one SQLite file that one process holds, and a thread that commits what many ask for.

NdscError
└── StoreError          the store cannot be used: another process holds it, it is damaged, or it is not one of ours
    └── StoreFullError  nothing was written: the capacity or the disk is used up; what was stored before is intact
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from ndsc.codec.errors import NdscError

_T = TypeVar("_T")

_CHECKPOINT_PAGES: Final = 256
_DISK_MARGIN_BYTES: Final = 4 << 20
_MAX_GROUP: Final = 256
_WHOLE: Final = ("BEGIN", "COMMIT", ("ROLLBACK",))
_PART: Final = ("SAVEPOINT part", "RELEASE part", ("ROLLBACK TO part", "RELEASE part"))


class StoreError(NdscError):
    """The store cannot be used."""


class StoreFullError(StoreError):
    """Nothing was written, because the capacity or the disk is used up; what was stored before is intact."""


@dataclass(frozen=True)
class Schema:
    """What a file must be to be one of ours."""

    kind: str
    """Word for people: "spool"."""
    application_id: int
    """SQLite's `application_id`: tells our kinds of file apart, and from those of others."""
    version: int
    """SQLite's `user_version`."""
    script: str
    """Statements that make an empty file one of this version."""


class Database:
    """One SQLite file: locked, checked, in WAL mode, each commit on disk before it returns (synchronous=FULL).

    The lock is the kernel's and dies with the process, however that ends. No other process can read the file
    meanwhile; in return there is no shared memory file, which a full disk could turn into a SIGBUS. Threads wait
    for each other, one transaction at a time. Pages of deleted rows are used again and never given back to the
    disk. Beside the file lies its WAL: 4 MiB, and more for the time of a larger transaction.
    """

    def __init__(self, path: Path, schema: Schema, *, capacity_bytes: int) -> None:
        """Open `path`, or make it. Raises StoreError."""
        self.path = path
        self._schema = schema
        self._capacity_bytes = capacity_bytes
        self._lock = threading.RLock()
        self._depth = 0
        self._promised_bytes = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {path.parent}: {error.strerror}") from error
        with self._translated():
            # timeout: who holds the lock holds it for good.
            self.connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            with self._translated():
                self._prepare()
        except StoreError:
            self.connection.close()
            raise

    def _prepare(self) -> None:
        self.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        # Before anything is written: the file may be someone else's.
        application_id, version = self.value("PRAGMA application_id"), self.value("PRAGMA user_version")
        empty = self.value("SELECT count(*) FROM sqlite_schema") == 0
        if not empty and application_id != self._schema.application_id:
            raise StoreError(f"{self.path} is not a {self._schema.kind} of ours; choose another folder")
        if not empty and version != self._schema.version:
            raise StoreError(
                f"{self.path} is a {self._schema.kind} of version {version}, this program knows version "
                f"{self._schema.version}; update the program or choose another folder"
            )
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        self.connection.execute(f"PRAGMA journal_size_limit = {_DISK_MARGIN_BYTES}")
        self.connection.execute("PRAGMA foreign_keys = ON")
        # Some builds write zeros over what is deleted, and so need a disk with room to make room.
        self.connection.execute("PRAGMA secure_delete = OFF")
        self._page_bytes = int(self.value("PRAGMA page_size"))
        if empty:
            self.connection.executescript(
                f"BEGIN IMMEDIATE; {self._schema.script};"
                f"PRAGMA application_id = {self._schema.application_id};"
                f"PRAGMA user_version = {self._schema.version}; COMMIT"
            )

    def value(self, statement: str, *parameters: Any) -> Any:
        """First column of the first row, or None."""
        row = self.connection.execute(statement, parameters).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; within another transaction, all or nothing of this part. Raises StoreError."""
        with self._lock, self._translated():
            begin, end, undo = _PART if self._depth else _WHOLE
            self._promised_bytes = self._promised_bytes if self._depth else 0
            self.connection.execute(begin)
            self._depth += 1
            try:
                yield self.connection
                self.connection.execute(end)
            except BaseException:
                # After some errors, a full disk for one, SQLite has undone the whole transaction by itself.
                if self.connection.in_transaction:
                    for statement in undo:
                        self.connection.execute(statement)
                raise
            finally:
                self._depth -= 1

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages in use: rows, indexes and their overhead."""
        with self._lock, self._translated():
            return self._pages("page_count") - self._pages("freelist_count")

    def _pages(self, pragma: str) -> int:
        return int(self.value(f"PRAGMA {pragma}")) * self._page_bytes

    def check_room(self, need_bytes: int) -> None:
        """Raise StoreFullError unless so much more fits into the capacity, and onto the disk with a margin.

        The margin keeps room for what a delete writes before it frees anything. Room found within a transaction
        is set aside until that ends.
        """
        with self.transaction():
            if self.used_bytes + need_bytes > self._capacity_bytes:
                raise StoreFullError(
                    f"{self.path} is full: it may take {self._capacity_bytes / (1 << 20):.4g} MiB; "
                    f"give it more, or wait until frames are done with"
                )
            disk = os.statvfs(self.path)
            free_bytes = max(disk.f_bavail * disk.f_frsize, self._pages("freelist_count"))
            promised_bytes = self._promised_bytes + need_bytes
            # Once in the WAL, once in the file.
            if free_bytes < _DISK_MARGIN_BYTES + 2 * promised_bytes:
                raise StoreFullError(f"the disk of {self.path} has no room left; free some")
            self._promised_bytes = promised_bytes

    def close(self) -> None:
        """Let go of the file. What was committed stays."""
        with self._lock:
            self.connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._store_error(error) from error

    def _store_error(self, error: Exception) -> StoreError:
        # The low byte is the kind of error, the rest says more about where.
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_FULL:
                return StoreFullError(f"the disk of {self.path} is full; free some of it")
            case sqlite3.SQLITE_BUSY:
                return StoreError(
                    f"{self.path} is in use by another process; stop it or choose another folder"
                )
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                return StoreError(
                    f"{self.path} is damaged or not a {self._schema.kind} of ours ({error}); move it away"
                )
            case _:
                return StoreError(f"cannot use {self.path}: {error}; check the disk and the permissions")


class Committer:
    """Runs work on a database in a thread of its own, and commits all that waits in one transaction.

    While one commit is on its way to the disk the next group gathers, so one slow disk serves many streams.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._closed = False
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=database.path.stem, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], _T]) -> _T:
        """Result of `work`, once it is committed. It may be run twice, the first time without effect.

        What it raises concerns it alone: the rest of its group is committed all the same. Raises StoreError.
        """
        if self._closed:
            raise StoreError(f"{self._database.path} is closed")
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Work(work, future))
        return await future

    async def close(self) -> None:
        """Commit what waits, then let go of the file."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._database.close()

    def _serve(self) -> None:
        while (first := self._queue.get()) is not None:
            group, last = [first], False
            while len(group) < _MAX_GROUP and not self._queue.empty():
                more = self._queue.get()
                if more is None:
                    last = True
                    break
                group.append(more)
            for work, outcome in zip(group, self._outcomes(group), strict=True):
                work.tell(outcome)
            if last:
                return

    def _outcomes(self, group: list[_Work]) -> list[_Outcome]:
        try:
            with self._database.transaction() as connection:
                outcomes = []
                for work in group:
                    outcomes.append(self._attempt(work))
                    if not connection.in_transaction:
                        raise StoreError("the error of one undid them all")
                return outcomes
        except StoreError:
            return [self._attempt(work) for work in group]

    def _attempt(self, work: _Work) -> _Outcome:
        try:
            with self._database.transaction():
                return _Outcome(work.function(), None)
        except Exception as error:  # whatever it is, it belongs to the one who asked
            return _Outcome(None, error)


@dataclass(frozen=True)
class _Outcome:
    result: Any
    error: Exception | None


@dataclass(frozen=True, eq=False)
class _Work:
    function: Callable[[], Any]
    future: asyncio.Future[Any]

    def tell(self, outcome: _Outcome) -> None:
        try:
            self.future.get_loop().call_soon_threadsafe(self._set, outcome)
        except RuntimeError:  # the loop was closed: no one waits any more
            return

    def _set(self, outcome: _Outcome) -> None:
        if self.future.done():
            return
        if outcome.error is None:
            self.future.set_result(outcome.result)
        else:
            self.future.set_exception(outcome.error)
