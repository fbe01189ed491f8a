"""Many cameras, one network: frames of the same size and bundle that wait at once are decoded in one run of it."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from ndsc.codec.codec import FrameDecoder, Indices
from ndsc.codec.frames import Frame

MAX_PIXELS_UNDER_WAY: Final = 1 << 21
"""Pixels in the network at once; a larger frame goes alone. A pixel takes up to 800 bytes on its way through
(measured with the shipped bundle at 2048x1024), so the network takes 1.7 GB at most; what it took it keeps."""


@dataclass(frozen=True)
class Run:
    """One run of the network, for those who measure."""

    waited_s: tuple[float, ...]
    """How long each of its frames waited for the run to begin."""
    network_s: float
    """How long the run took."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    indices: Indices
    side: Frame | None
    decoded: asyncio.Future[Frame]
    since: float = field(default_factory=time.perf_counter)


_NICENESS: Final = 5

T = TypeVar("T")
_Kind = tuple[FrameDecoder, int, int]
"""Decoder, width and height: frames that share them can share a run."""


class Batcher:
    """Runs decoders in threads of its own. Every method belongs to the event loop.

    The frame that has waited longest goes first and takes others of its kind along, so no kind starves. How many
    wait is bounded by what callers may have under way: the credit of open sessions and the Decode calls at once.
    """

    def __init__(
        self, *, runs: int, max_batch: int, observe: Callable[[Run], None] = lambda run: None
    ) -> None:
        """At most `runs` of the network at once, of at most `max_batch` frames each; `observe` is told of each."""
        self._runs = runs
        self._max_batch = max_batch
        self._observe = observe
        self._threads = ThreadPoolExecutor(runs, thread_name_prefix="network", initializer=_give_way)
        self._waiting: dict[_Kind, list[_Waiting]] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._pixels_under_way = 0

    async def decode(self, decoder: FrameDecoder, indices: Indices, side: Frame | None) -> Frame:
        """Indices and y [height, width, 3] of the same size, or None → uint8 [height, width, 3].

        Raises what the decoder raises for this frame alone. A caller that is cancelled before its run begins takes
        no part in it.
        """
        waiting = _Waiting(indices, side, asyncio.get_running_loop().create_future())
        self._waiting.setdefault((decoder, indices.width, indices.height), []).append(waiting)
        self._start()
        return await waiting.decoded

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function in one of the network's threads."""
        return await asyncio.wrap_future(self._threads.submit(function))

    def close(self) -> None:
        """Drop what has not begun; callers of `decode` are cancelled."""
        for waiting in (waiting for queue in self._waiting.values() for waiting in queue):
            waiting.decoded.cancel()
        self._waiting.clear()
        for run in self._under_way:
            run.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        """Begin as many runs as there is room for."""
        while len(self._under_way) < self._runs and (chosen := self._take()):
            kind, batch = chosen
            self._pixels_under_way += len(batch) * kind[1] * kind[2]
            run = asyncio.create_task(self._run(kind, batch))
            self._under_way.add(run)
            run.add_done_callback(self._finish)

    def _finish(self, run: asyncio.Task[None]) -> None:
        self._under_way.discard(run)
        self._start()

    def _take(self) -> tuple[_Kind, list[_Waiting]] | None:
        """The frames of the next run; None when none wait, or there is no room for the oldest."""
        while self._waiting:
            kind = min(self._waiting, key=lambda kind: self._waiting[kind][0].since)
            room = (MAX_PIXELS_UNDER_WAY - self._pixels_under_way) // (kind[1] * kind[2])
            if room < 1 and self._under_way:
                return None
            queue = [waiting for waiting in self._waiting.pop(kind) if not waiting.decoded.cancelled()]
            # A share for each run, or one would take all while the others stand idle.
            size = min(math.ceil(len(queue) / self._runs), self._max_batch, max(1, room))
            if size < len(queue):
                self._waiting[kind] = queue[size:]
            if queue:
                return kind, queue[:size]
        return None

    async def _run(self, kind: _Kind, batch: Sequence[_Waiting]) -> None:
        decoder, width, height = kind
        begun = time.perf_counter()
        try:
            outcomes = await asyncio.wrap_future(
                self._threads.submit(
                    _decode,
                    decoder,
                    [waiting.indices for waiting in batch],
                    [waiting.side for waiting in batch],
                )
            )
            self._observe(Run(tuple(begun - waiting.since for waiting in batch), time.perf_counter() - begun))
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if waiting.decoded.done():
                    continue  # its caller has gone
                if isinstance(outcome, Exception):
                    waiting.decoded.set_exception(outcome)
                else:
                    waiting.decoded.set_result(outcome)
        finally:
            for waiting in batch:
                waiting.decoded.cancel()  # where there is no outcome
            self._pixels_under_way -= len(batch) * width * height


def _give_way() -> None:
    """Let this thread, and those of the graphs it loads, wait for the event loop, which answers health checks."""
    thread = threading.get_native_id()
    # A process that was started nicer still may not take that back.
    os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


def _decode(
    decoder: FrameDecoder, indices: list[Indices], side: list[Frame | None]
) -> Sequence[Frame | Exception]:
    """Pictures, or errors in their place. When a batch fails, each of its frames is decoded alone."""
    try:
        return decoder.decode_batch(indices, side)
    except Exception as error:
        if len(indices) == 1:
            return [error]
    return [_decode(decoder, [i], [y])[0] for i, y in zip(indices, side, strict=True)]
