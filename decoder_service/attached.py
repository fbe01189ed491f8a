"""Side information that the server reads itself, from sources named in its settings."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import structlog

from decoder_service.fields import SESSION_ID_BYTES
from decoder_service.outputs import Hub, SidePicture
from decoder_service.settings import DecoderSettings, split_attachment
from decoder_service.side_information import SideFrame, SideInformationStore
from decoder_service.streams import Account, StreamKey, StreamRegistry
from ndsc.codec.errors import NdscError
from ndsc.service.errors import RefusedError
from ndsc.sources import Source, open_source
from ndsc.v1 import catalog_pb2


class AttachedSource:
    """One source, read in a thread of its own."""

    def __init__(self, rig: str, camera: str, source: Source) -> None:
        key = StreamKey(catalog_pb2.STREAM_KIND_SIDE_INFORMATION, rig, camera)
        self.account = Account(key, secrets.token_bytes(SESSION_ID_BYTES), source.width, source.height)
        self._source = source
        self._log: Any = structlog.get_logger(__name__).bind(rig=rig, camera=camera)

    def start(self, registry: StreamRegistry, store: SideInformationStore, hub: Hub) -> None:
        """Begin to read. Call on the event loop. Raises RefusedError like `StreamRegistry.open`."""
        registry.open(self.account, self)
        store.forget(self.account.key.rig, self.account.key.camera)
        loop = asyncio.get_running_loop()

        def on_loop(callback: Callable[[], None]) -> None:
            try:
                loop.call_soon_threadsafe(callback)
            except RuntimeError:  # the loop is closed: the server has ended before its source
                self._source.close()

        def hold(frame: SideFrame) -> None:
            if not self.account.open:  # a node's session took over
                return
            self.account.received += 1
            self.account.received_bytes += frame.image.nbytes
            self.account.decoded += 1
            self.account.last_capture_time_us = frame.capture_time_us
            rig, camera = self.account.key.rig, self.account.key.camera
            store.put(rig, camera, frame)
            hub.publish(SidePicture(rig, camera, frame.capture_time_us, frame.image))

        def read() -> None:
            try:
                with closing(self._source):
                    for frame in self._source:
                        held = SideFrame(frame.image, frame.capture_time_us)
                        on_loop(partial(hold, held))
                self._log.info("attached source ended")
            except NdscError as error:
                self._log.error("attached source failed", error=str(error))
            finally:
                on_loop(lambda: registry.close(self.account, self))

        threading.Thread(target=read, name=f"source-{self.account.key.camera}", daemon=True).start()

    @property
    def frames_in_flight(self) -> int:
        """None: there is no node to wait for acknowledgements."""
        return 0

    def end(self, error: RefusedError) -> None:
        """Stop reading."""
        self._source.close()

    def ask_to_drain(self) -> None:
        """Stop reading."""
        self._source.close()


def open_attached(settings: DecoderSettings) -> Sequence[AttachedSource]:
    """The sources that the settings attach, opened but not started; blocks. Raises SourceError."""
    epoch_us = None if settings.attach_epoch is None else round(settings.attach_epoch * 1_000_000)
    attached = []
    for entry in settings.attach:
        rig, camera, address = split_attachment(entry)
        source = open_source(address, fps=settings.attach_fps, epoch_us=epoch_us, loop=settings.attach_loop)
        attached.append(AttachedSource(rig, camera, source))
    return attached
