"""The file under both stores: lock, identity, full disk; and the thread that commits groups."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ndsc.service.sqlite import Committer, Database, Schema, StoreError, StoreFullError
from tests.unit.store_faults import check_integrity, fill, limit_pages, tiny_disk

SCHEMA = Schema("jar", 0x4E444A52, 3, "CREATE TABLE jar (value INTEGER NOT NULL, data BLOB) STRICT")
MIB = 1 << 20


def a_database(path: Path, schema: Schema = SCHEMA, capacity_bytes: int = 64 * MIB) -> Database:
    return Database(path, schema, capacity_bytes=capacity_bytes)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = a_database(tmp_path / "folder" / "jar.sqlite")
    yield database
    database.close()


def add(database: Database, value: int, data: bytes = b"") -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO jar VALUES (?, ?)", (value, data))


def add_all(database: Database, some: list[int | None]) -> None:
    with database.transaction() as connection:
        connection.executemany("INSERT INTO jar (value) VALUES (?)", [(value,) for value in some])


def add_and_fail(database: Database, value: int) -> None:
    with database.transaction():
        add(database, value)
        raise KeyError


def add_until_refused(database: Database, size: int, *, check_room: bool = False) -> None:
    for value in range(len(values(database)), 10_000):
        if check_room:
            database.check_room(size)
        add(database, value, bytes(size))


def check_room_twice(database: Database, size: int) -> None:
    with database.transaction():
        database.check_room(size)
        database.check_room(size)


def values(database: Database) -> list[int]:
    with database.transaction() as connection:
        return [value for (value,) in connection.execute("SELECT value FROM jar ORDER BY value")]


def test_what_was_committed_is_there_when_it_is_opened_again(database: Database) -> None:
    add(database, 1)
    database.close()
    with closing(a_database(database.path)) as again:
        assert values(again) == [1]


def test_commits_are_forced_to_the_disk(database: Database) -> None:
    assert database.value("PRAGMA journal_mode") == "wal"
    assert database.value("PRAGMA synchronous") == 2  # FULL
    assert database.value("PRAGMA locking_mode") == "exclusive"


def test_a_second_holder_is_refused_in_one_line(database: Database) -> None:
    for _ in range(2):
        with pytest.raises(
            StoreError, match=r"jar\.sqlite is in use by another process; stop it or"
        ) as error:
            a_database(database.path)
        assert "\n" not in str(error.value)
    add(database, 1)
    database.close()
    a_database(database.path).close()


_HOLD = """
import sys
from pathlib import Path
from tests.unit.test_sqlite import a_database
database = a_database(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "jar.sqlite"
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="in use by another process"):
            a_database(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        a_database(path).close()


def test_files_of_others_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no database, but of some length " * 100)
    with closing(sqlite3.connect(tmp_path / "theirs")) as theirs:
        theirs.execute("CREATE TABLE jar (value)")
    a_database(tmp_path / "other", Schema("tin", 1, 3, SCHEMA.script)).close()
    a_database(tmp_path / "newer", Schema("jar", SCHEMA.application_id, 4, SCHEMA.script)).close()
    for name, message in {
        "text": "is damaged or not a jar of ours",
        "theirs": "is not a jar of ours; choose another folder",
        "other": "is not a jar of ours; choose another folder",
        "newer": "is a jar of version 4, this program knows version 3; update",
    }.items():
        before = (tmp_path / name).read_bytes()
        with pytest.raises(StoreError, match=message):
            a_database(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_a_damaged_file_is_told(database: Database) -> None:
    for value in range(100):
        add(database, value, bytes(2000))
    database.close()
    with database.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    with closing(a_database(database.path)) as again, pytest.raises(StoreError, match="is damaged"):
        values(again)


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot make the folder"):
        a_database(tmp_path / "file" / "jar.sqlite")
    (tmp_path / "jar.sqlite").mkdir()
    with pytest.raises(StoreError, match=r"cannot use .*jar\.sqlite: unable to open database file; check"):
        a_database(tmp_path / "jar.sqlite")


def test_a_part_that_fails_undoes_itself_alone(database: Database) -> None:
    with database.transaction():
        add(database, 1)
        with pytest.raises(KeyError):
            add_and_fail(database, 2)
        add(database, 3)
    assert values(database) == [1, 3]


def test_a_whole_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(KeyError):
        add_and_fail(database, 1)
    with pytest.raises(StoreError, match="NOT NULL"):
        add_all(database, [1, None])
    assert values(database) == []


def test_a_file_that_cannot_grow_is_full_and_intact(database: Database) -> None:
    limit_pages(database, 20)
    with pytest.raises(StoreFullError, match="is full; free some of it"):
        add_until_refused(database, 4096)
    stored = values(database)
    assert stored == list(range(len(stored)))
    assert 5 < len(stored) < 20
    with database.transaction() as connection:
        connection.execute("DELETE FROM jar WHERE value < 10")
    add(database, 100, bytes(4096))
    database.close()
    check_integrity(database.path)


def test_room_is_checked_against_capacity_and_disk(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.check_room(63 * MIB)
    with pytest.raises(StoreFullError, match=r"jar\.sqlite is full: it may take 64 MiB; give it more"):
        database.check_room(64 * MIB)
    disk = namedtuple("disk", "f_bavail f_frsize")
    monkeypatch.setattr(os, "statvfs", lambda path: disk(1280, 4096))
    database.check_room(MIB // 2)
    with pytest.raises(StoreFullError, match="has no room left"):
        database.check_room(MIB)
    with pytest.raises(StoreFullError, match="has no room left"):
        check_room_twice(database, MIB // 2)
    # Pages of deleted rows are room as well.
    for value in range(8):
        add(database, value, bytes(MIB))
    with database.transaction() as connection:
        connection.execute("DELETE FROM jar")
    database.check_room(MIB)


def test_a_full_disk_leaves_room_to_delete(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 16) as disk:
        database = a_database(disk / "jar.sqlite")
        for _ in range(3):
            with pytest.raises(StoreFullError, match="has no room left; free some"):
                add_until_refused(database, 20_000, check_room=True)
            full = values(database)
            assert len(full) > 300
            for value in full:
                with database.transaction() as connection:
                    connection.execute("DELETE FROM jar WHERE value = ?", (value,))
        database.close()
        check_integrity(disk / "jar.sqlite")


def test_a_disk_that_others_filled_loses_nothing(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 16) as disk:
        database = a_database(disk / "jar.sqlite")
        for value in range(50):
            add(database, value, bytes(20_000))
        filler = fill(disk)
        with pytest.raises(StoreFullError):
            database.check_room(1)
        with pytest.raises(StoreFullError, match="is full; free some of it"):
            add_until_refused(database, 20_000)
        stored = values(database)
        assert stored == list(range(len(stored)))
        with pytest.raises(StoreFullError):
            a_database(disk / "another.sqlite")
        filler.unlink()
        a_database(disk / "another.sqlite").close()
        add(database, len(stored), bytes(20_000))
        database.close()
        check_integrity(disk / "jar.sqlite")
        with closing(a_database(disk / "jar.sqlite")) as again:
            assert values(again) == [*stored, len(stored)]


def adder(database: Database, value: int, data: bytes = b"") -> Callable[[], int]:
    def work() -> int:
        add(database, value, data)
        return value

    return work


async def test_what_many_ask_for_is_committed_together(database: Database) -> None:
    statements: list[str] = []
    database.connection.set_trace_callback(statements.append)
    committer = Committer(database)
    assert await asyncio.gather(*(committer.run(adder(database, value)) for value in range(200))) == list(
        range(200)
    )
    assert statements.count("COMMIT") < 100
    await committer.close()
    with closing(a_database(database.path)) as again:
        assert values(again) == list(range(200))


async def test_one_that_fails_in_a_group_fails_alone(database: Database) -> None:
    def bad() -> None:
        add(database, 1000)
        raise KeyError("mine")

    committer = Committer(database)
    first, second, third = await asyncio.gather(
        committer.run(adder(database, 1)),
        committer.run(bad),
        committer.run(adder(database, 2)),
        return_exceptions=True,
    )
    await committer.close()
    assert (first, third) == (1, 2)
    assert isinstance(second, KeyError)
    with closing(a_database(database.path)) as again:
        assert values(again) == [1, 2]


async def test_a_group_that_is_lost_is_done_again_one_by_one(database: Database) -> None:
    def lose() -> None:
        add(database, 1000)
        database.connection.execute("ROLLBACK")  # as SQLite does by itself after some errors
        raise StoreFullError("mine")

    committer = Committer(database)
    works: list[Callable[[], int | None]] = [adder(database, 1), lose, adder(database, 2)]
    outcomes = await asyncio.gather(*map(committer.run, works), return_exceptions=True)
    await committer.close()
    assert outcomes[0::2] == [1, 2]
    assert isinstance(outcomes[1], StoreFullError)
    with closing(a_database(database.path)) as again:
        assert values(again) == [1, 2]


async def test_those_a_full_disk_has_no_room_for_are_told_and_the_others_committed(
    database: Database,
) -> None:
    limit_pages(database, 30)
    committer = Committer(database)
    outcomes = await asyncio.gather(
        *(committer.run(adder(database, value, bytes(8000))) for value in range(40)), return_exceptions=True
    )
    await committer.close()
    stored = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert 5 < len(stored) < 20
    assert sum(isinstance(outcome, StoreFullError) for outcome in outcomes) == 40 - len(stored)
    with closing(a_database(database.path)) as again:
        assert values(again) == stored


async def test_a_closed_committer_takes_no_more(database: Database) -> None:
    committer = Committer(database)
    last = asyncio.ensure_future(committer.run(adder(database, 1)))
    await asyncio.sleep(0)
    await committer.close()
    assert await last == 1
    with pytest.raises(StoreError, match="is closed"):
        await committer.run(adder(database, 2))
    await committer.close()


async def test_no_one_needs_to_wait_for_an_answer(database: Database) -> None:
    committer = Committer(database)
    task = asyncio.ensure_future(committer.run(adder(database, 1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await committer.run(lambda: values(database)) == [1]
    await committer.close()
