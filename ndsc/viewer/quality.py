"""How good the newest frames are, where their source is known: with side information, and without."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import grpc.aio
import structlog

from ndsc.codec.errors import NdscError
from ndsc.evaluate.metrics import psnr
from ndsc.service.images import from_image
from ndsc.v1.types_pb2 import Image
from ndsc.viewer.rig import Event, RigWatcher
from ndsc.viewer.shelf import ViewedFrame

COMPARED_S: Final = 5.0
"""Frames are decoded without side information as long as a browser asked for such a picture so recently: the
decoder works twice for them."""


_log = structlog.get_logger(__name__)


class QualityMeter:
    """Measures the newest frame of each camera, one after the other, as many as it can."""

    def __init__(self, rig: RigWatcher) -> None:
        self._rig = rig
        self._compared_until = 0.0

    def compare(self) -> None:
        """A browser shows what a frame is like without side information."""
        self._compared_until = time.monotonic() + COMPARED_S

    async def run(self) -> None:
        """Measure for ever."""
        measured: dict[str, int] = {}
        while True:
            await self._rig.arrived.wait()
            self._rig.arrived.clear()
            if not self._rig.watched:  # cameras and decoder do not work for nobody
                continue
            for frame in list(self._rig.shelf.newest()):
                camera = frame.message.camera
                if measured.get(camera) == frame.number:
                    continue
                measured[camera] = frame.number
                try:
                    event = await self._measure(frame)
                except NdscError as error:
                    _log.warning("quality not measured", camera=camera, error=str(error))
                    continue
                if event is not None:
                    self._rig.tell(event)

    async def _measure(self, frame: ViewedFrame) -> Event | None:
        source = await self._rig.source(frame)
        if source is None:
            return None
        event: Event = {
            "type": "quality",
            "camera": frame.message.camera,
            "number": frame.number,
            "psnr_db": await asyncio.to_thread(_psnr, source, frame.message.image),
            "without_db": None,
        }
        if time.monotonic() < self._compared_until:
            try:
                without = await self._rig.without(frame)
            except grpc.aio.AioRpcError:  # the decoder has better things to do: it is busy, or going
                return event
            if without is not None:
                event["without_db"] = await asyncio.to_thread(_psnr, source, without)
        return event


def _psnr(source: Image, decoded: Image) -> float | None:
    """dB; None where sizes differ, or the pictures do not."""
    if (source.width, source.height) != (decoded.width, decoded.height):
        return None
    x, y = (from_image(image, max_pixels=image.width * image.height) for image in (source, decoded))
    found = psnr(x, y)
    return round(found, 3) if found < 100 else None
