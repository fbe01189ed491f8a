"""Held side information: bounds, the nearest, and pairing with a wait."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoder_service.side_information import Pairing, SideFrame, SideInformationStore

SIZE = (4, 2)
FRAME_BYTES = 4 * 2 * 3


def side(capture_time_us: int, size: tuple[int, int] = SIZE) -> SideFrame:
    return SideFrame(np.zeros((size[1], size[0], 3), np.uint8), capture_time_us)


def a_store(capacity_frames: int = 100, capacity_bytes: int = 1 << 20) -> SideInformationStore:
    return SideInformationStore(capacity_frames=capacity_frames, capacity_bytes=capacity_bytes)


def times(store: SideInformationStore, camera: str, among: range) -> list[int]:
    return [time for time in among if store.nearest("rig", camera, time, 0) is not None]


def test_each_stream_holds_its_newest() -> None:
    store = a_store(capacity_frames=3)
    for time in range(6):
        store.put("rig", "a", side(time))
    store.put("rig", "b", side(0))
    assert times(store, "a", range(10)) == [3, 4, 5]
    assert times(store, "b", range(10)) == [0]


def test_bytes_are_bounded_over_all_streams_oldest_first() -> None:
    store = a_store(capacity_bytes=3 * FRAME_BYTES)
    for time, camera in enumerate(["a", "b", "a", "b", "b"]):
        store.put("rig", camera, side(time))
    assert store.held_bytes == 3 * FRAME_BYTES
    assert (times(store, "a", range(5)), times(store, "b", range(5))) == ([2], [3, 4])


def test_a_clock_far_ahead_does_not_keep_frames_for_ever() -> None:
    store = a_store(capacity_frames=2)
    for time in (9_000_000, 1, 2):
        store.put("rig", "a", side(time))
    assert store.nearest("rig", "a", 9_000_000, 0) is None
    assert times(store, "a", range(5)) == [1, 2]


def test_a_frame_beyond_the_memory_is_not_held() -> None:
    store = a_store(capacity_bytes=FRAME_BYTES - 1)
    store.put("rig", "a", side(1))
    assert (store.held_bytes, store.held_frames("rig", "a")) == (0, 0)


def test_rigs_are_apart() -> None:
    store = a_store()
    store.put("rig", "a", side(1))
    assert store.nearest("other", "a", 1, 100) is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=12), st.integers(-5, 60), st.integers(0, 20))
def test_nearest_is_the_nearest(held: list[int], wanted: int, tolerance: int) -> None:
    store = a_store()
    for time in held:
        store.put("rig", "a", side(time))
    found = store.nearest("rig", "a", wanted, tolerance)
    within = [time for time in held if abs(time - wanted) <= tolerance]
    if not within:
        assert found is None
    else:
        assert found is not None
        assert found.capture_time_us == min(within, key=lambda time: (abs(time - wanted), time))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=30),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_bounds_hold_always(puts: list[tuple[str, int]], frames: int, total: int) -> None:
    store = a_store(capacity_frames=frames, capacity_bytes=total * FRAME_BYTES)
    for camera, time in puts:
        store.put("rig", camera, side(time))
        held = [store.held_frames("rig", name) for name in "ab"]
        assert max(held) <= frames
        assert store.held_bytes == sum(held) * FRAME_BYTES <= total * FRAME_BYTES
        assert store.nearest("rig", camera, time, 0) is not None, "the newest is always held"


async def pair(
    store: SideInformationStore, *streams: str, wanted: int = 100, wait_s: float = 60.0, tolerance: int = 10
) -> Pairing:
    deadline = asyncio.get_running_loop().time() + wait_s
    return await store.pair("rig", streams, wanted, size=SIZE, tolerance_us=tolerance, deadline=deadline)


async def waiting(pairing: asyncio.Task[Pairing]) -> None:
    """Let the task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not pairing.done()


def served(pairing: Pairing) -> tuple[str, int] | None:
    paired = pairing.paired
    return None if paired is None else (paired.stream, paired.frame.capture_time_us)


async def test_a_later_frame_ends_the_wait_at_once() -> None:
    store = a_store()
    store.put("rig", "a", side(95))
    store.put("rig", "a", side(104))
    assert served(await pair(store, "a")) == ("a", 104)
    store.put("rig", "a", side(300))
    assert served(await pair(store, "a", wanted=200)) is None


async def test_the_wait_is_for_something_nearer() -> None:
    store = a_store()
    store.put("rig", "a", side(95))
    task = asyncio.create_task(pair(store, "a"))
    await waiting(task)
    store.put("rig", "a", side(98))
    await waiting(task)
    store.put("rig", "b", side(100))
    await waiting(task)
    store.put("rig", "a", side(101))
    assert served(await task) == ("a", 101)


@pytest.mark.parametrize("wait_s", [-1.0, 0.0, 0.01])
async def test_after_the_wait_what_is_there_serves(wait_s: float) -> None:
    store = a_store()
    assert served(await pair(store, "a", wait_s=wait_s)) is None
    store.put("rig", "a", side(91))
    assert served(await pair(store, "a", wait_s=wait_s)) == ("a", 91)


async def test_a_better_stream_is_waited_for() -> None:
    store = a_store()
    store.put("rig", "second", side(100))
    task = asyncio.create_task(pair(store, "first", "second"))
    await waiting(task)
    store.put("rig", "first", side(109))
    assert served(await task) == ("first", 109)
    assert served(await pair(store, "first", "second", wait_s=0)) == ("first", 109)


async def test_a_better_stream_that_has_passed_by_is_not_waited_for() -> None:
    store = a_store()
    store.put("rig", "first", side(500))
    store.put("rig", "second", side(100))
    assert served(await pair(store, "first", "second")) == ("second", 100)


async def test_another_size_is_told_and_passed_over() -> None:
    store = a_store()
    store.put("rig", "first", side(100, size=(8, 8)))
    alone = await pair(store, "first")
    assert served(alone) is None
    assert alone.other_size == ("first", 8, 8)
    store.put("rig", "second", side(100))
    assert served(await pair(store, "first", "second")) == ("second", 100)


def test_of_equal_times_the_newest_arrival_serves() -> None:
    store = a_store()
    for level in (1, 2, 3):
        image = np.full((2, 4, 3), level, np.uint8)
        store.put("rig", "a", SideFrame(image, 100))
    store.put("rig", "a", side(200))
    for wanted in (99, 100, 101, 150):
        found = store.nearest("rig", "a", wanted, 50)
        assert found is not None
        assert found.image[0, 0, 0] == 3


def test_a_stream_is_forgotten_alone() -> None:
    store = a_store()
    for camera in ("a", "a", "b"):
        store.put("rig", camera, side(1))
    store.forget("rig", "a")
    store.forget("rig", "never seen")
    assert (store.held_frames("rig", "a"), store.held_frames("rig", "b")) == (0, 1)
    assert store.held_bytes == FRAME_BYTES
    store.put("rig", "a", side(2))
    assert times(store, "a", range(5)) == [2]
