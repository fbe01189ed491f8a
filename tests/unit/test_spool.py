"""The camera node's spool: order, sequences that outlive the process, room, and kill -9."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from encoder_service.spool import Spool, SpoolFrame
from ndsc.service.sqlite import StoreError, StoreFullError
from tests.unit.store_faults import check_integrity, fill, lines_until_killed, tiny_disk

MIB = 1 << 20
OPENING = b"opening"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(Spool(tmp_path, capacity_bytes=MIB)) as spool:
        yield spool


def append(spool: Spool, size: int = 700) -> int:
    """A frame whose bytes and time follow from its sequence."""
    sequence = spool.next_sequence
    return spool.append(content(sequence, size), opening=OPENING, capture_time_us=1000 * sequence)


def content(sequence: int, size: int = 700) -> bytes:
    return sequence.to_bytes(8, "big") * (size // 8)


def append_until_full(spool: Spool, size: int = 700) -> None:
    while True:
        append(spool, size)


def sequences(frames: list[SpoolFrame]) -> list[int]:
    return [frame.sequence for frame in frames]


def all_sequences(spool: Spool) -> list[int]:
    found: list[int] = []
    position = 0
    while frames := spool.read(position):
        found += sequences(frames)
        position = frames[-1].position
    return found


def test_a_frame_comes_back_as_it_went_in(spool: Spool) -> None:
    session_id = spool.begin(b"constants")
    assert len(session_id) == 16
    assert spool.next_sequence == 1
    spool.append(b"one", opening=b"first", capture_time_us=-7, rate_level=3, dropped_before=2)
    spool.append(b"", opening=b"second", capture_time_us=1 << 60)
    first, second = spool.read()
    assert first == SpoolFrame(first.position, session_id, b"first", 1, -7, 3, 2, b"one")
    assert second == SpoolFrame(second.position, session_id, b"second", 2, 1 << 60, 0, 0, b"")


def test_reading_goes_on_past_a_position(spool: Spool) -> None:
    spool.begin(b"constants")
    for _ in range(10):
        append(spool)
    first = spool.read(limit=4)
    assert sequences(first) == [1, 2, 3, 4]
    assert sequences(spool.read(first[-1].position, limit=4)) == [5, 6, 7, 8]
    assert sequences(spool.read(first[-1].position)) == [5, 6, 7, 8, 9, 10]


def test_large_frames_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    with closing(Spool(tmp_path, capacity_bytes=64 * MIB)) as spool:
        spool.begin(b"constants")
        for size in (5, 2, 2, 9, 1):
            append(spool, size * MIB)
        first = spool.read()
        assert sequences(first) == [1, 2, 3]
        assert sequences(spool.read(first[-1].position)) == [4]
        assert sequences(spool.read(first[-1].position, limit=1)) == [4]


def test_a_frame_needs_a_session(spool: Spool) -> None:
    with pytest.raises(RuntimeError, match="begin a session first"):
        append(spool)


def test_a_session_goes_on_when_its_constants_are_the_same(tmp_path: Path) -> None:
    with closing(Spool(tmp_path, capacity_bytes=MIB)) as spool:
        session_id = spool.begin(b"constants")
        assert [append(spool), append(spool), append(spool)] == [1, 2, 3]
        assert spool.acknowledge(session_id, 3) == 3
    with closing(Spool(tmp_path, capacity_bytes=MIB)) as spool:
        assert spool.begin(b"constants") == session_id
        assert spool.next_sequence == 4
        assert spool.frames == 0


def test_other_constants_begin_a_session_and_old_frames_go_first(tmp_path: Path) -> None:
    with closing(Spool(tmp_path, capacity_bytes=MIB)) as spool:
        old = spool.begin(b"small")
        append(spool)
        append(spool)
    with closing(Spool(tmp_path, capacity_bytes=MIB)) as spool:
        new = spool.begin(b"large")
        assert new != old
        append(spool)
        assert [(frame.session_id, frame.sequence) for frame in spool.read()] == [
            (old, 1),
            (old, 2),
            (new, 1),
        ]
        assert spool.frames == 3
        assert spool.acknowledge(new, 1) == 1
        assert spool.acknowledge(old, 1) == 1
        assert [(frame.session_id, frame.sequence) for frame in spool.read()] == [(old, 2)]
        assert spool.begin(b"small") not in {old, new}, "only the newest session goes on"


def test_acknowledging_is_cumulative_and_may_be_repeated(spool: Spool) -> None:
    session_id = spool.begin(b"constants")
    for _ in range(5):
        append(spool)
    assert spool.first_unacknowledged(session_id) == 1
    assert spool.acknowledge(session_id, 0) == 0
    assert spool.acknowledge(session_id, 3) == 3
    assert spool.acknowledge(session_id, 2) == 0
    assert spool.first_unacknowledged(session_id) == 4
    assert spool.acknowledge(b"some other id...", 5) == 0
    assert spool.acknowledge(session_id, 5) == 2
    assert spool.first_unacknowledged(session_id) == 6


@pytest.mark.parametrize("sequence", [-1, 1 << 40, 1 << 63])
def test_impossible_sequences_are_not_acknowledged(spool: Spool, sequence: int) -> None:
    session_id = spool.begin(b"constants")
    append(spool)
    with pytest.raises(ValueError, match="no such sequence"):
        spool.acknowledge(session_id, sequence)
    assert spool.frames == 1


def test_a_sequence_that_the_decoder_has_is_never_given_again(tmp_path: Path) -> None:
    with closing(Spool(tmp_path, capacity_bytes=MIB)) as spool:
        session_id = spool.begin(b"constants")
        append(spool)
        # The decoder has more: this spool is an old copy.
        assert spool.acknowledge(session_id, 9) == 1
        assert append(spool) == 10
    with closing(Spool(tmp_path, capacity_bytes=MIB)) as spool:
        spool.begin(b"constants")
        assert append(spool) == 11
        assert spool.frames == 2


def test_one_node_holds_a_spool(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"spool\.sqlite is in use by another process"):
        Spool(tmp_path, capacity_bytes=MIB)


def test_a_full_spool_takes_frames_again_when_some_are_acknowledged(spool: Spool, tmp_path: Path) -> None:
    session_id = spool.begin(b"constants")
    for _ in range(3):
        with pytest.raises(StoreFullError, match=r"spool\.sqlite is full: it may take 1 MiB; give it more"):
            append_until_full(spool)
        held, refused = spool.frames, spool.next_sequence
        assert held > 1000
        assert spool.used_bytes <= MIB
        assert spool.acknowledge(session_id, refused - 1) == held
        assert spool.used_bytes < MIB / 20
        assert append(spool) == refused, "a refused frame takes no sequence"
    spool.close()
    assert (tmp_path / "spool.sqlite").stat().st_size <= MIB
    check_integrity(tmp_path / "spool.sqlite")


def test_a_full_disk_refuses_frames_and_keeps_those_it_has(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 16) as disk:
        with closing(Spool(disk, capacity_bytes=1024 * MIB)) as spool:
            session_id = spool.begin(b"constants")
            with pytest.raises(StoreFullError, match="has no room left; free some"):
                append_until_full(spool, 20_000)
            held = spool.frames
            filler = fill(disk)
            with pytest.raises(StoreFullError):
                append(spool)
            # With not one byte left even this may be refused; either way nothing is lost.
            try:
                gone = spool.acknowledge(session_id, 10)
            except StoreFullError:
                gone = 0
            assert all_sequences(spool) == list(range(gone + 1, held + 1))
            filler.unlink()
            assert spool.acknowledge(session_id, held) == held - gone
            assert append(spool, 20_000) == held + 1
        check_integrity(disk / "spool.sqlite")


_WRITE = """
import sys
from pathlib import Path
from encoder_service.spool import Spool
from tests.unit.test_spool import append
spool = Spool(Path(sys.argv[1]), capacity_bytes=1 << 26)
session_id = spool.begin(b"constants")
for turn in range(1_000_000):
    print("appended", append(spool, 700 if turn % 5 else 50_000), flush=True)
    if turn % 7 == 6:
        up_to = spool.next_sequence - 3
        spool.acknowledge(session_id, up_to)
        print("acknowledged", up_to, flush=True)
"""


def test_kill_9_loses_no_frame_and_gives_no_sequence_twice(tmp_path: Path) -> None:
    appended = acknowledged = 0
    for _ in range(5):
        for line in lines_until_killed(_WRITE, tmp_path, most=400):
            word, number = line.split()
            if word == "acknowledged":
                acknowledged = int(number)
            else:
                assert int(number) > appended
                appended = int(number)
        check_integrity(tmp_path / "spool.sqlite")
        with closing(Spool(tmp_path, capacity_bytes=64 * MIB)) as spool:
            spool.begin(b"constants")
            held = spool.read(limit=1000)
            # What was under way when it was killed may be done or not.
            assert sequences(held) == list(range(held[0].sequence, spool.next_sequence))
            assert appended + 1 <= spool.next_sequence <= appended + 2
            assert acknowledged + 1 <= held[0].sequence <= appended
            assert spool.frames == len(held)
            for frame in held:
                assert frame.data == content(frame.sequence, len(frame.data))


class SpoolMachine(RuleBasedStateMachine):
    """A spool beside a list."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.spool = Spool(self.folder, capacity_bytes=8 * MIB)
        self.held: list[tuple[bytes, bytes, int, int, bytes]] = []
        self.last: dict[bytes, int] = {}

    @initialize()
    def first(self) -> None:
        self.key = b"0"
        self.session_id = self.spool.begin(self.key)

    @rule(key=st.sampled_from([b"0", b"1"]))
    def reopen(self, key: bytes) -> None:
        self.spool.close()
        self.spool = Spool(self.folder, capacity_bytes=8 * MIB)
        session_id = self.spool.begin(key)
        if key == self.key:
            assert session_id == self.session_id
        else:
            assert session_id not in self.last
        self.key, self.session_id = key, session_id

    @rule(
        size=st.integers(0, 9000), opening=st.binary(max_size=3), time=st.integers(-(1 << 63), (1 << 63) - 1)
    )
    def append(self, size: int, opening: bytes, time: int) -> None:
        sequence = self.spool.append(bytes(size), opening=opening, capture_time_us=time)
        assert sequence == self.last.get(self.session_id, 0) + 1
        self.last[self.session_id] = sequence
        self.held.append((self.session_id, opening, sequence, time, bytes(size)))

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        session_id = data.draw(st.sampled_from([self.session_id, *self.last]))
        up_to = data.draw(st.integers(0, self.last.get(session_id, 0)))
        left = [frame for frame in self.held if frame[0] != session_id or frame[2] > up_to]
        assert self.spool.acknowledge(session_id, up_to) == len(self.held) - len(left)
        self.held = left

    @invariant()
    def holds_the_same(self) -> None:
        frames = self.spool.read(limit=10_000)
        assert [
            (frame.session_id, frame.opening, frame.sequence, frame.capture_time_us, frame.data)
            for frame in frames
        ] == self.held
        assert self.spool.frames == len(self.held)
        assert self.spool.next_sequence == self.last.get(self.session_id, 0) + 1
        for session_id in {frame[0] for frame in self.held}:
            first = min(frame[2] for frame in self.held if frame[0] == session_id)
            assert self.spool.first_unacknowledged(session_id) == first

    def teardown(self) -> None:
        self.spool.close()
        check_integrity(self.folder / "spool.sqlite")
        shutil.rmtree(self.folder)


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
