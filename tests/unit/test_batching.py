"""Frames of several cameras in one run of the network: which go together, in what order, and what goes wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import numpy as np
import pytest

from decoder_service import batching
from decoder_service.batching import Batcher, Run
from ndsc.codec.codec import FrameDecoder, Indices
from ndsc.codec.frames import Frame


class Network:
    """Stands in for a FrameDecoder: a picture shows the number that its frame was given as rate level.

    It runs when `go_on` is set, and can be told to fail.
    """

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.runs: list[tuple[int, ...]] = []
        self.fails: Callable[[list[int]], bool] = lambda numbers: False
        self.began = threading.Semaphore(0)

    def decode_batch(self, unpacked: Sequence[Indices], side: Sequence[Frame | None]) -> list[Frame]:
        numbers = [indices.rate_level for indices in unpacked]
        self.began.release()
        self.go_on.wait()
        if self.fails(numbers):
            raise ValueError(f"cannot decode {numbers}")
        self.runs.append(tuple(numbers))
        return [np.full((i.height, i.width, 3), i.rate_level, np.uint8) for i in unpacked]

    @property
    def decoder(self) -> FrameDecoder:
        return cast(FrameDecoder, self)

    async def hold(self, batcher: Batcher, *, width: int = 8) -> asyncio.Task[Frame]:
        """Occupy one of the batcher's threads with frame 0 until `go_on` is set."""
        self.go_on.clear()
        task = asyncio.create_task(batcher.decode(self.decoder, numbered(0, width), None))
        await asyncio.to_thread(self.began.acquire)
        return task


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    network = Network()
    yield network
    network.go_on.set()


@asynccontextmanager
async def batcher_of(
    *, runs: int = 1, max_batch: int = 8, observe: Callable[[Run], None] = lambda run: None
) -> AsyncIterator[Batcher]:
    batcher = Batcher(runs=runs, max_batch=max_batch, observe=observe)
    yield batcher
    batcher.close()


def numbered(number: int, width: int = 8, height: int = 8) -> Indices:
    return Indices(bytes(16), number, width, height, np.zeros((1, 1, 1), np.int32))


async def ask(
    batcher: Batcher, network: Network, numbers: Sequence[int], width: int = 8
) -> list[asyncio.Task[Frame]]:
    """Ask for frames, in this order, and let them wait."""
    tasks = [
        asyncio.create_task(batcher.decode(network.decoder, numbered(number, width), None))
        for number in numbers
    ]
    await asyncio.sleep(0)
    return tasks


async def test_frames_that_wait_share_a_run(network: Network) -> None:
    async with batcher_of() as batcher:
        held = await network.hold(batcher)
        tasks = await ask(batcher, network, [1, 2, 3])
        network.go_on.set()
        pictures = await asyncio.gather(held, *tasks)
    assert network.runs == [(0,), (1, 2, 3)]
    assert [int(picture[0, 0, 0]) for picture in pictures] == [0, 1, 2, 3]  # each caller has its own


async def test_a_run_holds_no_more_than_max_batch_frames_of_one_size_and_one_decoder(
    network: Network,
) -> None:
    other = Network()
    async with batcher_of(max_batch=2) as batcher:
        held = await network.hold(batcher)
        tasks = await ask(batcher, network, [1])
        tasks += await ask(batcher, network, [2], width=16)
        tasks += await ask(batcher, other, [3])
        tasks += await ask(batcher, network, [4, 5])
        network.go_on.set()
        await asyncio.gather(held, *tasks)
    assert network.runs == [(0,), (1, 4), (2,), (5,)]
    assert other.runs == [(3,)]


async def test_the_oldest_goes_first_so_no_size_starves(network: Network) -> None:
    """A frame of a rare size is decoded next, although frames of the common size never stop coming."""
    async with batcher_of(max_batch=1) as batcher:
        held = await network.hold(batcher)
        common = await ask(batcher, network, [1])
        rare = await ask(batcher, network, [2], width=16)
        common += await ask(batcher, network, [3, 4, 5])
        network.go_on.set()
        await asyncio.gather(held, *rare, *common)
    assert network.runs == [(0,), (1,), (2,), (3,), (4,), (5,)]


async def test_one_bad_frame_does_not_spoil_its_batch(network: Network) -> None:
    network.fails = lambda numbers: 2 in numbers
    async with batcher_of() as batcher:
        held = await network.hold(batcher)
        tasks = await ask(batcher, network, [1, 2, 3])
        network.go_on.set()
        outcomes = await asyncio.gather(held, *tasks, return_exceptions=True)
    assert [isinstance(outcome, ValueError) for outcome in outcomes] == [False, False, True, False]
    assert str(outcomes[2]) == "cannot decode [2]"  # of its own run, not of the batch's
    assert network.runs == [(0,), (1,), (3,)]


async def test_a_caller_that_has_gone_takes_no_part(network: Network) -> None:
    async with batcher_of() as batcher:
        held = await network.hold(batcher)
        tasks = await ask(batcher, network, [1, 2, 3])
        tasks[0].cancel()
        tasks[2].cancel()
        network.go_on.set()
        await held
        assert int((await tasks[1])[0, 0, 0]) == 2
    assert network.runs == [(0,), (2,)]


async def test_a_caller_that_goes_while_its_run_is_under_way_leaves_the_others_theirs(
    network: Network,
) -> None:
    async with batcher_of() as batcher:
        held = await network.hold(batcher)
        tasks = await ask(batcher, network, [1, 2])
        network.go_on.set()
        await held
        network.go_on.clear()
        await asyncio.to_thread(network.began.acquire)
        tasks[0].cancel()
        await asyncio.sleep(0)
        network.go_on.set()
        assert int((await tasks[1])[0, 0, 0]) == 2
        # And the batcher still works.
        assert int((await batcher.decode(network.decoder, numbered(3), None))[0, 0, 0]) == 3


async def test_runs_side_by_side_share_what_waits(network: Network) -> None:
    async with batcher_of(runs=2) as batcher:
        held = [await network.hold(batcher), await network.hold(batcher)]
        tasks = await ask(batcher, network, [1, 2, 3, 4])
        network.go_on.set()
        await asyncio.gather(*held, *tasks)
    assert sorted(network.runs) == [(0,), (0,), (1, 2), (3,), (4,)]


async def test_pixels_under_way_are_bounded(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads are free, but memory is for three small frames at once; a larger one goes alone."""
    monkeypatch.setattr(batching, "MAX_PIXELS_UNDER_WAY", 3 * 64)
    async with batcher_of(runs=3) as batcher:
        network.go_on.clear()
        tasks = await ask(batcher, network, [1], width=8)
        tasks += await ask(batcher, network, [2], width=64)  # does not fit beside it, and bars the way
        tasks += await ask(batcher, network, [3, 4, 5, 6], width=8)
        await asyncio.to_thread(network.began.acquire)
        assert not network.began.acquire(blocking=False)
        network.go_on.set()
        await asyncio.gather(*tasks)
    assert network.runs[:2] == [(1,), (2,)]
    assert sum(map(len, network.runs)) == 6
    assert max(map(len, network.runs)) <= 3


async def test_runs_are_observed(network: Network) -> None:
    runs: list[Run] = []
    async with batcher_of(observe=runs.append) as batcher:
        held = await network.hold(batcher)
        tasks = await ask(batcher, network, [1, 2])
        network.go_on.set()
        await asyncio.gather(held, *tasks)
    assert [len(run.waited_s) for run in runs] == [1, 2]
    assert all(run.network_s > 0 for run in runs)
    assert min(runs[1].waited_s) > max(runs[0].waited_s)  # they waited for the first run


async def test_closing_ends_all_waits(network: Network) -> None:
    async with batcher_of() as batcher:
        held = await network.hold(batcher)
        tasks = await ask(batcher, network, [1, 2], width=16)
        batcher.close()
        network.go_on.set()
        outcomes = await asyncio.gather(held, *tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 3
    assert network.runs in ([], [(0,)])


def test_a_decoder_that_was_started_nice_stays_so() -> None:
    code = """
import os
from decoder_service.batching import _give_way
os.nice(10)
if os.geteuid() == 0:
    os.setuid(65534)  # as in a container: without the right to raise a priority
_give_way()
print(os.getpriority(os.PRIO_PROCESS, 0) >= 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
