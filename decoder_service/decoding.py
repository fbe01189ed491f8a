"""The bundles served and the threads that do blocking work: the event loop never decodes, codes or writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, ParamSpec, Self, TypeVar

from decoder_service.batching import Batcher, Run
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, Indices
from ndsc.codec.errors import BundleError
from ndsc.codec.frames import Frame
from ndsc.codec.runtime import RuntimeOptions
from ndsc.service.errors import BITSTREAM_UNKNOWN, NOT_READY, RefusedError

_DEFAULT_OPTIONS: Final = RuntimeOptions()
_IMAGE_THREADS: Final = 4
_GPU_BATCH: Final = 8
_SMALL_FRAME_PIXELS: Final = 1 << 16
"""On a CPU, frames up to this size run on one thread each, side by side: at 256x128, two at once on two cores take
6.2 ms a frame, one after another on both cores 9.4 to 16 ms (measured). Larger frames run on all threads, so that
a lone camera has the use of them; side by side they take no longer for it."""

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A few threads for blocking work that runs no network."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_IMAGE_THREADS, thread_name_prefix="worker")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a blocking function in one of the threads."""
        return await asyncio.wrap_future(self._threads.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Drop what has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Sessions:
    """A bundle's decoders: one graph, loaded for small frames and for large ones."""

    small: FrameDecoder
    large: FrameDecoder

    @classmethod
    def make(cls, bundle: Bundle, options: RuntimeOptions) -> Self:
        """Load and run both once; blocks. Raises ProviderError or BundleError."""
        large = FrameDecoder(bundle, options)
        large.warm_up()
        if options.provider != "cpu" or options.threads == 1:
            return cls(large, large)
        small = FrameDecoder(bundle, replace(options, threads=1))
        small.warm_up()
        return cls(small, large)


class Decoders:
    """The bundles that are served, the preferred one first, and once they are prepared their decoders."""

    def __init__(
        self,
        bundles: Sequence[Bundle],
        options: RuntimeOptions = _DEFAULT_OPTIONS,
        *,
        max_batch: int | None = None,
        observe: Callable[[Run], None] = lambda run: None,
    ) -> None:
        """Hold bundles, without a provider.

        Args:
            bundles: to serve, the preferred one first.
            options: where networks run; its threads serve all networks together, 0 takes one for each core.
            max_batch: frames in one run of a network; None takes 8 on a GPU and 1 on a CPU, where a batch gains
                nothing (measured at 256x128: 13.5 ms of CPU time a frame in batches of 8, alone 12.6 ms).
            observe: is told of each run.

        Raises BundleError when two bundles have the same bitstream id.
        """
        self._options = options
        self._bundles: dict[bytes, Bundle] = {}
        for bundle in bundles:
            other = self._bundles.setdefault(bundle.bitstream_id, bundle)
            if other is not bundle:
                raise BundleError(
                    f"{bundle.path} and {other.path} decode the same bitstream; serve one of them"
                )
        self._sessions: dict[bytes, _Sessions] = {}
        if options.provider == "cuda":
            runs, batch = 1, _GPU_BATCH
        else:
            runs, batch = options.threads or len(os.sched_getaffinity(0)), 1
        self._batcher = Batcher(runs=runs, max_batch=max_batch or batch, observe=observe)
        self.max_pixels: Final = max(bundle.geometry.max_pixels for bundle in bundles)

    @classmethod
    def load(
        cls,
        paths: Iterable[Path],
        options: RuntimeOptions,
        *,
        max_batch: int | None = None,
        observe: Callable[[Run], None] = lambda run: None,
    ) -> Self:
        """Load bundles and check their golden vectors, on any machine; blocks. Raises BundleError."""
        bundles = [Bundle.load(path) for path in paths]
        for bundle in bundles:
            bundle.check_golden()
        return cls(bundles, options, max_batch=max_batch, observe=observe)

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """In the order in which they were named."""
        return tuple(self._bundles.values())

    @property
    def preferred(self) -> Bundle:
        """The bundle that nodes should use: the first."""
        return self.bundles[0]

    def bundle(self, bitstream_id: bytes) -> Bundle:
        """The bundle of a bitstream. Raises RefusedError (BITSTREAM_UNKNOWN)."""
        bundle = self._bundles.get(bitstream_id)
        if bundle is None:
            served = ", ".join(f"{other.bitstream_id.hex()} ({other.name})" for other in self.bundles)
            raise RefusedError(
                BITSTREAM_UNKNOWN,
                f"bitstream {bitstream_id.hex()} is not served here, only {served}; "
                f"encode with the bundle that the decoder serves",
            )
        return bundle

    async def prepare(self) -> None:
        """Load every graph where it will run and run it once. Raises ProviderError or BundleError."""
        self._sessions = await self._batcher.call(
            lambda: {
                bitstream_id: _Sessions.make(bundle, self._options)
                for bitstream_id, bundle in self._bundles.items()
            }
        )

    def find(self, bitstream_id: bytes) -> FrameDecoder:
        """The decoder of a bitstream. Raises RefusedError (BITSTREAM_UNKNOWN, and NOT_READY before `prepare`)."""
        self.bundle(bitstream_id)
        if not self._sessions:
            raise RefusedError(NOT_READY, "this decoder cannot decode yet; its health says when, its log why")
        return self._sessions[bitstream_id].large

    async def decode(self, decoder: FrameDecoder, indices: Indices, side: Frame | None) -> Frame:
        """Indices and y [height, width, 3] of the same size, or None → uint8 [height, width, 3].

        Frames that wait at once share runs of the network; an error is that of this frame alone.
        """
        sessions = self._sessions[decoder.bundle.bitstream_id]
        small = indices.width * indices.height <= _SMALL_FRAME_PIXELS
        return await self._batcher.decode(sessions.small if small else sessions.large, indices, side)

    def close(self) -> None:
        """Drop what has not begun."""
        self._batcher.close()
