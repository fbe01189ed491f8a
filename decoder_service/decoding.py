"""The bundles served and the threads that do blocking work: the event loop never decodes, codes or writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, Indices
from ndsc.codec.errors import BundleError
from ndsc.codec.frames import Frame
from ndsc.codec.runtime import RuntimeOptions
from ndsc.service.errors import BITSTREAM_UNKNOWN, RefusedError

_IMAGE_THREADS: Final = 4

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """One thread for the network, since a device runs one batch at a time, and a few for everything else."""

    def __init__(self) -> None:
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._others = ThreadPoolExecutor(_IMAGE_THREADS, thread_name_prefix="worker")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a blocking function in one of the threads."""
        return await asyncio.wrap_future(self._others.submit(function, *args, **kwargs))

    async def run_network(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that runs a network, after those asked for before."""
        return await asyncio.wrap_future(self._network.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Drop what has not begun."""
        self._network.shutdown(wait=False, cancel_futures=True)
        self._others.shutdown(wait=False, cancel_futures=True)


class Decoders:
    """A FrameDecoder for each bitstream that is served."""

    def __init__(self, decoders: Iterable[FrameDecoder], workers: Workers) -> None:
        self._workers = workers
        self._by_bitstream: dict[bytes, FrameDecoder] = {}
        for decoder in decoders:
            other = self._by_bitstream.setdefault(decoder.bundle.bitstream_id, decoder)
            if other is not decoder:
                raise BundleError(
                    f"{decoder.bundle.path} and {other.bundle.path} decode the same bitstream; "
                    f"serve one of them"
                )
        self.max_pixels: Final = max(decoder.bundle.geometry.max_pixels for decoder in self.all())

    @classmethod
    def load(cls, paths: Iterable[Path], options: RuntimeOptions, workers: Workers) -> Decoders:
        """Load bundles and check their golden vectors; blocks. Raises BundleError or ProviderError."""
        return cls([FrameDecoder(Bundle.load(path), options) for path in paths], workers)

    def all(self) -> tuple[FrameDecoder, ...]:
        """In the order in which they were named."""
        return tuple(self._by_bitstream.values())

    def find(self, bitstream_id: bytes) -> FrameDecoder:
        """The decoder of a bitstream. Raises RefusedError (BITSTREAM_UNKNOWN)."""
        decoder = self._by_bitstream.get(bitstream_id)
        if decoder is None:
            served = ", ".join(
                f"{other.hex()} ({found.bundle.name})" for other, found in self._by_bitstream.items()
            )
            raise RefusedError(
                BITSTREAM_UNKNOWN,
                f"bitstream {bitstream_id.hex()} is not served here, only {served}; "
                f"encode with the bundle that the decoder serves",
            )
        return decoder

    async def decode(self, decoder: FrameDecoder, indices: Indices, side: Frame | None) -> Frame:
        """Indices and y [height, width, 3] of the same size, or None → uint8 [height, width, 3]."""
        return (await self._workers.run_network(decoder.decode_batch, [indices], [side]))[0]

    async def warm_up(self) -> None:
        """Run every network once, where it will run. Raises ProviderError or BundleError."""
        for decoder in self.all():
            await self._workers.run_network(decoder.warm_up)
