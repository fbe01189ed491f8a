"""The decoder's archive: keys, order, accounts, pairing in time, retention, and kill -9."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from decoder_service.archive import (
    Archive,
    AsyncArchive,
    FrameRow,
    FrameState,
    SideRow,
    StoredSession,
)
from ndsc.service.sqlite import StoreError, StoreFullError
from tests.unit.store_faults import check_integrity, fill, limit_pages, lines_until_killed, tiny_disk

MIB = 1 << 20
HOUR_US = 3_600_000_000
TOLERANCE_US = 50_000
SESSION = b"a camera session"
SIDE_SESSION = b"a side session.."
REASON = 7


class Clock:
    """Microseconds; goes only when told."""

    now_us = 1_000 * HOUR_US

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


def an_archive(folder: Path, clock: Clock | None = None, capacity_bytes: int = 64 * MIB) -> Archive:
    return Archive(
        folder,
        capacity_bytes=capacity_bytes,
        keep_us=HOUR_US,
        tolerance_us=TOLERANCE_US,
        clock=clock or Clock(),
    )


@pytest.fixture
def archive(tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    with closing(an_archive(tmp_path, clock)) as archive:
        yield archive


def frame(sequence: int, camera: str = "left", size: int = 700, **changes: Any) -> FrameRow:
    """A frame whose capture time, a tenth of a second apart, and bytes follow from its sequence."""
    row = FrameRow(
        rig="rig",
        camera=camera,
        session_id=SESSION,
        sequence=sequence,
        opening=b"opening",
        bitstream_id=b"a bitstream id..",
        capture_time_us=100_000 * sequence,
        rate_level=2,
        payload=content(sequence, size),
        frame_bytes=size + 9,
    )
    return replace(row, **changes)


def side(sequence: int, capture_time_us: int | None = None, size: int = 700, **changes: Any) -> SideRow:
    row = SideRow(
        rig="rig",
        camera="right",
        session_id=SIDE_SESSION,
        sequence=sequence,
        capture_time_us=100_000 * sequence if capture_time_us is None else capture_time_us,
        format=3,
        width=256,
        height=128,
        data=content(sequence, size),
    )
    return replace(row, **changes)


def content(sequence: int, size: int) -> bytes:
    return sequence.to_bytes(8, "big") * (size // 8)


def pending(archive: Archive, camera: str = "left") -> list[int]:
    return [stored.row.sequence for stored in archive.pending("rig", camera, limit=100_000)]


def number_of(archive: Archive, sequence: int, camera: str = "left") -> int:
    frames = archive.frames("rig", camera, limit=100_000)
    return next(stored.number for stored in frames if stored.row.sequence == sequence)


def nearest(archive: Archive, time_us: int, tolerance_us: int = TOLERANCE_US) -> SideRow | None:
    return archive.nearest_side("rig", "right", time_us, tolerance_us, width=256, height=128)


def store_until_full(archive: Archive, first: int = 1, **changes: Any) -> None:
    for sequence in range(first, 1_000_000):
        archive.store(frame(sequence, **changes))


# --- frames ---


def test_a_frame_comes_back_as_it_went_in(archive: Archive, clock: Clock) -> None:
    row = frame(1, dropped_before=3)
    assert archive.store(row)
    (stored,) = archive.pending("rig", "left")
    assert stored.row == row
    assert (stored.state, stored.reason, stored.stored_at_us) == (FrameState.WAITING, 0, clock.now_us)


def test_a_frame_that_is_there_is_not_stored_again(archive: Archive) -> None:
    assert archive.store(frame(1))
    assert not archive.store(frame(1, payload=b"other"))
    assert archive.store(frame(1, session_id=b"another session."))
    assert archive.store(frame(1, camera="top"))
    assert archive.store(frame(1, rig="other"))
    assert [stored.row.payload for stored in archive.pending("rig", "left")] == [content(1, 700)] * 2
    known = archive.session("rig", "left", SESSION)
    assert known is not None
    assert known.waiting == 1


def test_waiting_frames_come_in_order_of_storing(archive: Archive) -> None:
    for sequence in (1, 2, 5):
        archive.store(frame(sequence, capture_time_us=-sequence))
        archive.store(frame(sequence, camera="top"))
    archive.store(frame(1, session_id=b"another session."))
    assert pending(archive) == [1, 2, 5, 1]
    first, second = archive.pending("rig", "left", limit=2)
    assert [f.row.sequence for f in archive.pending("rig", "left", after=second.number)] == [5, 1]
    assert archive.pending("rig", "none") == []
    assert first.number < second.number


def test_a_frame_is_marked_once(archive: Archive) -> None:
    for sequence in (1, 2):
        archive.store(frame(sequence))
    first, second = archive.pending("rig", "left")
    assert archive.mark_decoded(first.number)
    assert not archive.mark_decoded(first.number)
    assert not archive.mark_failed(first.number, REASON)
    assert archive.mark_failed(second.number, REASON)
    assert not archive.mark_decoded(second.number)
    assert not archive.mark_decoded(99)
    assert pending(archive) == []
    assert [(stored.state, stored.reason) for stored in archive.frames("rig", "left")] == [
        (FrameState.DECODED, 0),
        (FrameState.FAILED, REASON),
    ]


def test_a_refused_frame_counts_and_is_not_asked_for_again(archive: Archive) -> None:
    assert archive.fail("rig", "left", SESSION, 1, REASON, opening=b"opening", dropped_before=2)
    assert not archive.fail("rig", "left", SESSION, 1, REASON, opening=b"opening", dropped_before=2)
    assert not archive.store(frame(1))
    assert archive.session("rig", "left", SESSION) == StoredSession(
        rig="rig",
        camera="left",
        session_id=SESSION,
        opening=b"opening",
        last_sequence=1,
        waiting=0,
        decoded=0,
        failed=1,
        dropped=2,
    )
    assert pending(archive) == []
    assert archive.frames("rig", "left") == [], "there is nothing to decode again"


def test_an_account_outlives_the_process_and_its_frames(tmp_path: Path, clock: Clock) -> None:
    with closing(an_archive(tmp_path, clock)) as archive:
        for sequence in range(1, 6):
            archive.store(frame(sequence, dropped_before=sequence % 2))
        archive.store(frame(6, opening=b"with another bundle"))
        waiting = archive.pending("rig", "left")
        archive.mark_decoded(waiting[0].number)
        archive.mark_failed(waiting[1].number, REASON)
    clock.now_us += 2 * HOUR_US
    with closing(an_archive(tmp_path, clock)) as archive:
        archive.retention.expire()
        assert len(archive.frames("rig", "left")) == 4
        (session,) = archive.sessions()
        assert session == archive.session("rig", "left", SESSION)
        assert session.opening == b"with another bundle"
        assert session.last_sequence == 6
        counts = (session.waiting, session.decoded, session.failed, session.dropped)
        assert counts == (4, 1, 1, 3)
        assert archive.session("rig", "left", b"an unknown id...") is None
        assert archive.cameras_with_pending() == [("rig", "left")]
        for stored in archive.pending("rig", "left"):
            archive.mark_decoded(stored.number)
        assert archive.cameras_with_pending() == []


def test_frames_to_decode_again_are_found_by_time_and_session(archive: Archive) -> None:
    for sequence in range(1, 6):
        archive.store(frame(sequence))
    archive.store(frame(9, session_id=b"another session.", capture_time_us=250_000))
    archive.mark_decoded(number_of(archive, 3))

    def found(**where: Any) -> list[int]:
        return [stored.row.sequence for stored in archive.frames("rig", "left", **where)]

    assert found() == [1, 2, 9, 3, 4, 5]
    assert found(from_time_us=200_000, to_time_us=400_000) == [2, 9, 3]
    assert found(session_id=SESSION, from_time_us=200_000) == [2, 3, 4, 5]
    assert found(limit=2) == [1, 2]


# --- side information ---


def test_side_information_comes_back_as_it_went_in_and_once(archive: Archive) -> None:
    assert archive.put_side(side(4))
    assert not archive.put_side(side(4, data=b"other"))
    assert nearest(archive, 400_000) == side(4)
    assert archive.last_side_sequence("rig", "right", SIDE_SESSION) == 4
    assert archive.last_side_sequence("rig", "right", b"an unknown id...") == 0
    assert archive.newest_side_time("rig", "right") == 400_000
    assert archive.newest_side_time("rig", "none") is None


def test_camera_and_side_sessions_do_not_mix(archive: Archive) -> None:
    archive.put_side(side(7, camera="left", session_id=SESSION))
    assert archive.sessions() == []
    assert archive.session("rig", "left", SESSION) is None
    archive.store(frame(1))
    archive.put_side(side(8, camera="left", session_id=SESSION))
    known = archive.session("rig", "left", SESSION)
    assert known is not None
    assert known.last_sequence == 1
    assert archive.last_side_sequence("rig", "left", SESSION) == 8


def test_the_nearest_of_equals_is_the_earlier_and_the_last_to_arrive(archive: Archive) -> None:
    archive.put_side(side(1, 1_000))
    archive.put_side(side(2, 3_000))
    archive.put_side(side(3, 1_000))
    archive.put_side(side(4, 3_000, width=64))
    assert nearest(archive, 2_000) == side(3, 1_000)
    assert nearest(archive, 2_001) == side(2, 3_000)
    assert nearest(archive, 4_000, tolerance_us=999) is None
    assert nearest(archive, 4_000, tolerance_us=1_000) == side(2, 3_000)
    assert archive.nearest_side("rig", "left", 2_000, 5_000, width=256, height=128) is None


@settings(max_examples=50, deadline=None)
@given(
    times=st.lists(st.integers(-60, 60), max_size=30),
    wanted=st.integers(-60, 60),
    tolerance=st.integers(0, 30),
)
def test_the_nearest_is_the_one_a_search_finds(times: list[int], wanted: int, tolerance: int) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(an_archive(Path(folder))) as archive:
        with archive.database.transaction():
            for sequence, time in enumerate(times, 1):
                archive.put_side(side(sequence, time, size=8))
        near = [
            (abs(time - wanted), time, -sequence)
            for sequence, time in enumerate(times, 1)
            if abs(time - wanted) <= tolerance
        ]
        found = nearest(archive, wanted, tolerance)
        assert (found and found.sequence) == (-min(near)[2] if near else None)


# --- retention ---


def test_what_is_done_expires_and_what_waits_does_not(archive: Archive, clock: Clock) -> None:
    for sequence in range(1, 301):
        archive.store(frame(sequence))
        archive.put_side(side(sequence))
    for stored in archive.pending("rig", "left", limit=250):
        archive.mark_decoded(stored.number)
    clock.now_us += HOUR_US - 1
    archive.put_side(side(301, 0))
    assert archive.retention.expire().rows == 0
    clock.now_us += 2
    steps = 0
    while archive.retention.expire().more:
        steps += 1
    assert steps > 4, "many rows go in small steps"
    assert pending(archive) == list(range(251, 301))
    assert len(archive.frames("rig", "left")) == 50
    # What a waiting frame needs stays with it.
    assert archive.usage().side_frames == 51
    assert nearest(archive, 25_100_000) == side(251)
    assert nearest(archive, 25_000_000) is None
    for stored in archive.pending("rig", "left", limit=50):
        archive.mark_decoded(stored.number)
    clock.now_us += HOUR_US
    while archive.retention.expire().more:
        pass
    usage = archive.usage()
    assert (usage.frames, usage.side_frames, usage.waiting_frames) == (0, 0, 0)


def test_the_oldest_done_frames_and_side_information_go_for_room(tmp_path: Path, clock: Clock) -> None:
    with closing(an_archive(tmp_path, clock, capacity_bytes=2 * MIB)) as archive:
        for sequence in range(1, 401):
            clock.now_us += 1
            archive.put_side(side(sequence, size=8_000))
            archive.store(frame(sequence, size=8_000))
            archive.mark_decoded(archive.pending("rig", "left")[0].number)
        usage = archive.usage()
        assert usage.used_bytes <= 2 * MIB
        assert usage.needed_side_frames_lost == 0
        kept = [stored.row.sequence for stored in archive.frames("rig", "left")]
        assert kept == list(range(kept[0], 401))
        assert 50 < len(kept) < 130
        assert nearest(archive, kept[0] * 100_000 - 2_000_000) is None
        assert nearest(archive, 40_000_000) == side(400, size=8_000)
    assert (tmp_path / "archive.sqlite").stat().st_size <= 2 * MIB


def test_frames_that_wait_outlive_all_else_and_then_refuse_more(tmp_path: Path, clock: Clock) -> None:
    with closing(an_archive(tmp_path, clock, capacity_bytes=MIB)) as archive:
        for sequence in range(1, 31):
            archive.store(frame(sequence))
        for sequence in range(1, 41):  # the last ten are needed by no frame
            archive.put_side(side(sequence, size=8_000))
        for sequence in range(31, 51):
            archive.fail("rig", "left", SESSION, sequence, REASON, opening=b"")
        sizes: list[tuple[int, int, int]] = []

        def store_and_look(sequence: int) -> None:
            archive.store(frame(sequence, size=4_000, capture_time_us=0))
            usage = archive.usage()
            done = usage.frames - usage.waiting_frames
            sizes.append((done, usage.side_frames, usage.needed_side_frames_lost))

        with pytest.raises(StoreFullError, match=r"archive\.sqlite is full: it may take 1 MiB"):
            deque(map(store_and_look, range(51, 10_000)))
        waiting = pending(archive)
        assert waiting == list(range(1, 31)) + list(range(51, 51 + len(sizes)))
        # First what is done and the side information that no one needs, then, counted, the rest of it.
        assert next(size for size in sizes if size[2]) == (0, 30 - 16, 16)
        assert sizes[-1][1:] == (0, 30)
        # Nothing can be stored until something is decoded.
        with pytest.raises(StoreFullError):
            archive.put_side(side(99, size=20_000))
        for number in archive.pending("rig", "left", limit=60)[-20:]:
            archive.mark_decoded(number.number)
        assert archive.put_side(side(99, size=20_000))


def test_what_was_kept_after_all_does_not_count_as_lost(tmp_path: Path, clock: Clock) -> None:
    with closing(an_archive(tmp_path, clock, capacity_bytes=MIB)) as archive:
        archive.store(frame(1))
        archive.put_side(side(1))
        for _ in range(3):
            with pytest.raises(StoreFullError):
                archive.store(frame(2, size=2 * MIB))
        assert archive.usage().needed_side_frames_lost == 0
        assert nearest(archive, 100_000) == side(1)


def test_what_is_not_needed_any_more_goes_before_what_is(tmp_path: Path, clock: Clock) -> None:
    with closing(an_archive(tmp_path, clock, capacity_bytes=MIB)) as archive:
        for sequence in range(1, 101):
            archive.store(frame(sequence, size=80))
            archive.put_side(side(sequence, size=20_000))
        # All that is left of side information is needed: the oldest had to go.
        lost = archive.retention.needed_lost
        assert 40 < lost < 80
        for stored in archive.pending("rig", "left", limit=100)[90:]:
            archive.mark_decoded(stored.number)
        for sequence in range(201, 206):
            archive.put_side(side(sequence, size=20_000))
        assert archive.retention.needed_lost == lost
        for sequence in range(lost + 1, 91):
            assert nearest(archive, sequence * 100_000) == side(sequence, size=20_000)


def test_another_rig_does_not_need_it(archive: Archive, clock: Clock) -> None:
    archive.store(frame(1, rig="other"))
    archive.store(frame(2, camera="top"))
    for sequence in (1, 2):
        archive.put_side(side(sequence))
    clock.now_us += 2 * HOUR_US
    archive.retention.expire()
    assert nearest(archive, 100_000) is None
    assert nearest(archive, 200_000) == side(2)


# --- faults ---


def test_one_decoder_holds_an_archive(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"archive\.sqlite is in use by another process"):
        an_archive(tmp_path)


def test_a_file_that_cannot_grow_makes_room_or_refuses_and_stays_whole(
    archive: Archive, tmp_path: Path
) -> None:
    limit_pages(archive.database, 60)
    with pytest.raises(StoreFullError, match="is full; free some"):
        store_until_full(archive, size=8_000)
    held = pending(archive)
    assert held == list(range(1, len(held) + 1))
    assert archive.session("rig", "left", SESSION) is not None
    for stored in archive.pending("rig", "left", limit=100):
        assert archive.mark_decoded(stored.number)
    assert archive.retention.expire().rows == 0
    archive.close()
    check_integrity(tmp_path / "archive.sqlite")


def test_a_full_disk_refuses_frames_and_loses_none(tmp_path: Path, clock: Clock) -> None:
    with tiny_disk(tmp_path / "disk", 16) as disk:
        with closing(an_archive(disk, clock, capacity_bytes=1024 * MIB)) as archive:
            with pytest.raises(StoreFullError, match="has no room left; free some"):
                store_until_full(archive, size=20_000)
            held = pending(archive)
            assert held == list(range(1, len(held) + 1))
            assert len(held) > 400
            # Decoding goes on, and what is decoded makes room.
            for stored in archive.pending("rig", "left", limit=300):
                assert archive.mark_decoded(stored.number)
            assert archive.store(frame(len(held) + 1, size=20_000))
            filler = fill(disk)
            archive.pending("rig", "left", limit=1000)
            filler.unlink()
            assert archive.store(frame(len(held) + 2, size=20_000))
            assert pending(archive) == list(range(301, len(held) + 3))
        check_integrity(disk / "archive.sqlite")


_WRITE = """
import asyncio, sys
from pathlib import Path
from decoder_service.archive import AsyncArchive
from tests.unit.test_archive import an_archive, frame, side

async def camera(archive, name):
    known = await archive.session("rig", name, b"a camera session")
    sequence = known.last_sequence if known else 0
    while True:
        sequence += 1
        await archive.store(frame(sequence, name, 20_000 if sequence % 9 == 0 else 700))
        print("stored", name, sequence, flush=True)
        if sequence % 3 == 0:
            for stored in await archive.pending("rig", name, limit=2):
                assert await archive.mark_decoded(stored.number)
                print("decoded", name, stored.row.sequence, flush=True)

async def side_camera(archive):
    sequence = await archive.last_side_sequence("rig", "right", b"a side session..")
    while True:
        sequence += 1
        await archive.put_side(side(sequence))
        print("side", "right", sequence, flush=True)

async def main():
    archive = AsyncArchive(an_archive(Path(sys.argv[1])))
    await asyncio.gather(*(camera(archive, name) for name in ("left", "top", "back")), side_camera(archive))

asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    answered: set[tuple[str, str, int]] = set()
    for _ in range(5):
        for line in lines_until_killed(_WRITE, tmp_path, most=600):
            what, name, number = line.split()
            key = (what, name, int(number))
            assert key not in answered
            answered.add(key)
        check_integrity(tmp_path / "archive.sqlite")
        with closing(an_archive(tmp_path)) as archive:
            for what, _, sequence in answered:
                if what == "side":
                    assert nearest(archive, sequence * 100_000, 0) == side(sequence)
            for name in ("left", "top", "back"):
                known = archive.session("rig", name, SESSION)
                if known is None:
                    continue
                frames = archive.frames("rig", name, limit=100_000)
                assert [stored.row.sequence for stored in frames] == list(range(1, known.last_sequence + 1))
                decoded = {f.row.sequence for f in frames if f.state == FrameState.DECODED}
                assert {
                    number for what, camera, number in answered if (what, camera) == ("decoded", name)
                } <= decoded
                assert known.decoded == len(decoded)
                assert known.waiting == len(frames) - len(decoded)
                assert (
                    max((n for what, camera, n in answered if camera == name), default=0)
                    <= known.last_sequence
                )
                for stored in frames:
                    assert stored.row.payload == content(stored.row.sequence, len(stored.row.payload))


# --- behind a thread ---


async def test_many_cameras_share_commits(tmp_path: Path) -> None:
    archive = an_archive(tmp_path)
    statements: list[str] = []
    archive.database.connection.set_trace_callback(statements.append)
    front = AsyncArchive(archive)
    stored = await asyncio.gather(
        *(front.store(frame(sequence, camera)) for sequence in (1, 2, 2) for camera in ("left", "top") * 20)
    )
    await front.flush()
    assert sum(stored) == 4
    assert statements.count("COMMIT") < 40
    assert await front.cameras_with_pending() == [("rig", "left"), ("rig", "top")]
    await front.close()
    with pytest.raises(StoreError, match="is closed"):
        await front.sessions()


async def test_one_bad_frame_of_a_group_fails_alone(tmp_path: Path) -> None:
    front = AsyncArchive(an_archive(tmp_path))
    outcomes = await asyncio.gather(
        front.store(frame(1)),
        front.store(frame(2, capture_time_us=1 << 63)),
        front.store(frame(3)),
        return_exceptions=True,
    )
    assert (outcomes[0], outcomes[2]) == (True, True)
    assert isinstance(outcomes[1], OverflowError)
    known = await front.session("rig", "left", SESSION)
    assert known is not None
    assert (known.waiting, known.last_sequence) == (2, 3)
    await front.close()


async def test_the_front_does_what_the_archive_does(tmp_path: Path, clock: Clock) -> None:
    front = AsyncArchive(an_archive(tmp_path, clock))
    for sequence in (1, 2):
        assert await front.store(frame(sequence))
    assert await front.fail("rig", "left", SESSION, 3, REASON, opening=b"opening")
    assert await front.put_side(side(1))
    first, second = await front.pending("rig", "left")
    assert await front.mark_decoded(first.number)
    assert await front.mark_failed(second.number, REASON)
    assert await front.pending("rig", "left", after=second.number, limit=1) == []
    assert await front.last_side_sequence("rig", "right", SIDE_SESSION) == 1
    assert await front.newest_side_time("rig", "right") == 100_000
    assert await front.nearest_side("rig", "right", 100_001, 1, width=256, height=128) == side(1)
    (session,) = await front.sessions()
    assert (session.decoded, session.failed, session.waiting) == (1, 2, 0)
    clock.now_us += 2 * HOUR_US
    assert await front.expire() == 4
    assert (await front.usage()).frames == 0
    await front.close()


# --- all together ---


class ArchiveMachine(RuleBasedStateMachine):
    """An archive beside a dictionary; nothing expires here."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.archive = an_archive(self.folder)
        self.states: dict[tuple[str, bytes, int], FrameState] = {}
        self.dropped = 0

    @rule()
    def reopen(self) -> None:
        self.archive.close()
        self.archive = an_archive(self.folder)

    cameras = st.sampled_from(["left", "top"])
    sessions = st.sampled_from([b"session 1", b"session 2"])
    sequences = st.integers(1, 12)

    @rule(camera=cameras, session_id=sessions, sequence=sequences, dropped=st.integers(0, 3))
    def store(self, camera: str, session_id: bytes, sequence: int, dropped: int) -> None:
        row = frame(sequence, camera, session_id=session_id, dropped_before=dropped)
        key = (camera, session_id, sequence)
        assert self.archive.store(row) == (key not in self.states)
        if key not in self.states:
            self.states[key] = FrameState.WAITING
            self.dropped += dropped

    @rule(camera=cameras, session_id=sessions, sequence=sequences)
    def refuse(self, camera: str, session_id: bytes, sequence: int) -> None:
        key = (camera, session_id, sequence)
        refused = self.archive.fail("rig", camera, session_id, sequence, REASON, opening=b"")
        assert refused == (key not in self.states)
        self.states.setdefault(key, FrameState.FAILED)

    @rule(camera=cameras, decoded=st.booleans())
    def mark(self, camera: str, decoded: bool) -> None:
        for stored in self.archive.pending("rig", camera, limit=1):
            key = (camera, stored.row.session_id, stored.row.sequence)
            assert self.states[key] == FrameState.WAITING
            if decoded:
                assert self.archive.mark_decoded(stored.number)
            else:
                assert self.archive.mark_failed(stored.number, REASON)
            self.states[key] = FrameState.DECODED if decoded else FrameState.FAILED

    @invariant()
    def holds_the_same(self) -> None:
        waiting = [
            (camera, stored.row.session_id, stored.row.sequence)
            for camera in ("left", "top")
            for stored in self.archive.pending("rig", camera, limit=1000)
        ]
        assert len(set(waiting)) == len(waiting)
        assert set(waiting) == {key for key, state in self.states.items() if state == FrameState.WAITING}
        accounts = self.archive.sessions()
        assert sum(account.dropped for account in accounts) == self.dropped
        for account in accounts:
            states = {
                sequence: state
                for (camera, session_id, sequence), state in self.states.items()
                if (camera, session_id) == (account.camera, account.session_id)
            }
            counted = list(states.values())
            assert account.last_sequence == max(states)
            assert account.waiting == counted.count(FrameState.WAITING)
            assert account.decoded == counted.count(FrameState.DECODED)
            assert account.failed == counted.count(FrameState.FAILED)

    def teardown(self) -> None:
        self.archive.close()
        check_integrity(self.folder / "archive.sqlite")
        shutil.rmtree(self.folder)


TestArchiveMachine = ArchiveMachine.TestCase
TestArchiveMachine.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
