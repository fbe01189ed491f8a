"""A camera node at work: source → capture thread → coding thread → outbox → link."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog

from encoder_service.account import Account
from encoder_service.camera import CameraRole
from encoder_service.capture import CaptureQueue, start_capture
from encoder_service.coder import Coder
from encoder_service.fetch import fetch_bundle, last_fetched
from encoder_service.link import Connector, Link
from encoder_service.metrics import NodeMetrics
from encoder_service.offered import OfferedSources
from encoder_service.outbox import LiveOutbox
from encoder_service.rate_control import FixedLevel, FollowLink, Rate, RateController, TargetRate
from encoder_service.role import Role
from encoder_service.settings import EncoderSettings
from encoder_service.side import SideInformationRole
from encoder_service.spool import Spool
from encoder_service.spooled import SpooledOutbox, SpoolThread
from encoder_service.uplink import SessionError
from ndsc.codec.bundle import Bundle, default_bundle_path
from ndsc.codec.errors import NdscError
from ndsc.service.history import History
from ndsc.service.identity import Identity
from ndsc.service.settings import is_loopback
from ndsc.service.tls import Certificates
from ndsc.service.watched import Watched
from ndsc.sources import Source, open_source
from ndsc.v1 import types_pb2
from ndsc.v1.frame_stream_pb2 import Opened
from ndsc.v1.side_information_pb2 import SideInformationOpened

_CLOCKS: Final = {
    "unsynchronized": types_pb2.CLOCK_UNSYNCHRONIZED,
    "ntp": types_pb2.CLOCK_NTP,
    "ptp": types_pb2.CLOCK_PTP,
    "synthetic": types_pb2.CLOCK_SYNTHETIC,
}
_BUNDLE_CHANGE_SPREAD_S: Final = 1.0
"""Nodes change over at different moments, so that the decoder is not asked for a bundle by all at once."""


class Node:
    """One run of a camera node, from its start to the last acknowledgement."""

    def __init__(
        self,
        settings: EncoderSettings,
        metrics: NodeMetrics,
        certificates: Watched[Certificates] | None = None,
    ) -> None:
        """Raises OutputError when the history cannot be written, KeyFileError for another one's certificate."""
        if certificates is not None:
            identity = Identity(settings.rig, settings.role, settings.camera)
            certificates.current().require_identity(identity)
        self._settings = settings
        self._connector = Connector(settings, certificates)
        self._metrics = metrics
        history = History(
            settings.history,
            side="node",
            kind="camera" if settings.role == "camera" else "side",
            rig=settings.rig,
            camera=settings.camera,
        )
        self.account = Account(history, metrics)
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__).bind(
            rig=settings.rig, camera=settings.camera
        )
        self._changed = asyncio.Event()
        self._stopped = False
        self._source: Source | None = None
        self._queue: CaptureQueue | None = None
        self._link: Link | None = None
        self._outbox: LiveOutbox | SpooledOutbox | None = None
        self._change: asyncio.Task[None] | None = None
        self.session_id = os.urandom(16)
        """Of the session that frames are added to; the spool may go on with an older one."""
        self.offered = OfferedSources(settings.offer_sources)
        self.rate: RateController | None = None
        self.announced = False
        """Whether the process has said that it is ready: the first call was opened."""

    @property
    def connected(self) -> bool:
        """Whether a call is open now."""
        return self._link is not None and self._link.connected

    @property
    def waiting(self) -> int:
        """Frames captured that were not sent in this run, with those of earlier runs in the spool."""
        return self._outbox.waiting if self._outbox is not None else 0

    @property
    def in_flight(self) -> int:
        """Frames sent on the open call and not acknowledged yet."""
        return self._link.in_flight if self._link is not None else 0

    @property
    def credit_frames(self) -> int:
        """Frames that the decoder lets be in flight."""
        return self._link.credit_frames if self._link is not None else 0

    @property
    def spool_frames(self) -> int:
        """Frames in the spool."""
        return self._outbox.held if isinstance(self._outbox, SpooledOutbox) else 0

    @property
    def spool_bytes(self) -> int:
        """Bytes that the spool takes of its capacity."""
        return self._outbox.held_bytes if isinstance(self._outbox, SpooledOutbox) else 0

    @property
    def spool_full(self) -> bool:
        """The spool takes no more frames."""
        return isinstance(self._outbox, SpooledOutbox) and self._outbox.full

    @property
    def rate_level(self) -> int:
        """Of the newest coded frame."""
        return self.account.rate_level

    @property
    def target_bps(self) -> float:
        """The rate that the node is held to, in bit/s; 0 for a fixed level."""
        return 1000 * ((self.rate.target_kbps if self.rate is not None else None) or 0.0)

    @property
    def sent_bps(self) -> float:
        """Bits of Frame messages sent, over the last two seconds."""
        return 1000 * self.rate.sent_kbps(time.monotonic()) if self.rate is not None else 0.0

    async def run(self, on_connection: Callable[[bool], Awaitable[None]]) -> None:
        """Stream until the source ends or `stop`, wait for the acknowledgements.

        `on_connection` is awaited when a call has been opened, and when it has ended. Raises SourceError,
        SessionError, StoreError, and what the role raises for frames and bundles that it cannot use.
        """
        settings = self._settings
        connector = self._connector
        if settings.certificate_files() is None and not is_loopback(settings.decoder):
            self._log.warning("frames go to another machine without encryption", decoder=settings.decoder)
        async with AsyncExitStack() as stack:
            role = await self._role(connector)
            if settings.delivery == "live":
                # A source that plays by the clock would run away from a decoder that is not there yet.
                await self._reach(connector)
            source = self._source = await self._open_source()
            stack.callback(source.close)
            role.begin(source, _CLOCKS[settings.clock or source.clock])
            self.rate = RateController(role.rate_levels, self._rate(role))
            coder = Coder(role, self.rate, self.account, self.offered, epoch_us=source.epoch_us)
            queue = self._queue = CaptureQueue(
                max(settings.queue_frames, settings.batch_frames),
                self.account,
                lossless=settings.pace == "credit",
                on_change=self._queue_changed,
            )
            stack.callback(queue.end, discard=True)
            outbox = self._outbox = await self._make_outbox(stack, queue, coder, role)
            self._log = self._log.bind(session=self.session_id.hex()[:8])
            link = self._link = Link(
                settings,
                role,
                outbox,
                self.rate,
                self.account,
                self._metrics,
                connector,
                changed=self._changed,
                on_connection=on_connection,
                on_opened=lambda opened: self._opened(opened, role, connector),
                recover=lambda error: self._recover(error, role, connector),
                log=self._log,
            )
            self._log.info(
                "streaming",
                decoder=settings.decoder,
                source=settings.source,
                delivery=settings.delivery,
                width=source.width,
                height=source.height,
                waiting=outbox.waiting,
            )
            self.account.event("start", session=self.session_id.hex(), delivery=settings.delivery)
            if self._stopped:
                self.stop()
            start_capture(source, queue)
            await self._send_all(link, queue, outbox)

    def stop(self) -> None:
        """Capture no more; `run` then finishes. Frames that wait are still sent, but live ones dropped."""
        self._stopped = True
        if self._source is not None:
            self._source.close()
        if self._queue is not None:
            live = self._settings.pace == "realtime" and self._settings.delivery == "live"
            self._queue.end(discard=live)
        if self._link is not None:
            self._link.stop()

    def summary(self) -> dict[str, Any]:
        """The run's account so far, ready for JSON."""
        account = self.account
        return {
            "role": self._settings.role,
            "rig": self._settings.rig,
            "camera": self._settings.camera,
            "session": self.session_id.hex(),
            "delivery": self._settings.delivery,
            "captured": account.captured,
            "sent": account.sent,
            "acked": account.acked,
            "failed": account.failed,
            "dropped": account.dropped,
            "unknown": account.unknown,
            "waiting": self.waiting,
            "calls": self._link.calls if self._link is not None else 0,
            "payload_bytes": account.payload_bytes,
            "frame_bytes": account.message_bytes,
            "encode_ms": round(1000 * account.coding_s / account.coded, 3) if account.coded else None,
        }

    async def _send_all(self, link: Link, queue: CaptureQueue, outbox: LiveOutbox | SpooledOutbox) -> None:
        tasks = [asyncio.create_task(link.run())]
        if isinstance(outbox, SpooledOutbox):
            tasks.append(asyncio.create_task(outbox.fill()))
        try:
            # The first to fail ends the other; to fill the spool ends long before it is sent.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            if self._change is not None:
                tasks.append(self._change)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            queue.end(discard=True)
            await outbox.end()
            self.account.event("end", session=self.session_id.hex(), **self._facts_at_the_end())
        if queue.error is not None:
            raise queue.error

    def _facts_at_the_end(self) -> dict[str, int]:
        summary = self.summary()
        return {
            name: summary[name]
            for name in ("captured", "sent", "acked", "failed", "dropped", "unknown", "waiting")
        }

    async def _role(self, connector: Connector) -> Role:
        if self._settings.role == "side-information":
            return SideInformationRole(self._settings)
        path = await self._bundle(connector)
        return await asyncio.to_thread(lambda: CameraRole(self._settings, Bundle.load(path, "encoder")))

    async def _bundle(self, connector: Connector) -> Path:
        settings = self._settings
        if not settings.fetch_bundle:
            return settings.bundle or default_bundle_path()
        while True:
            try:
                return await self._fetch(connector)
            except NdscError as error:
                # An archive must not lose what is filmed while the decoder is down.
                known = settings.bundle or await asyncio.to_thread(last_fetched, settings.bundle_cache)
                if known is not None:
                    self._log.warning("bundle not fetched", starting_with=str(known), error=str(error))
                    return known
                await self._reach(connector)
                self._log.warning("bundle not fetched, trying again", error=str(error))
                await asyncio.sleep(random.uniform(0, settings.reconnect_max_s))  # noqa: S311

    async def _fetch(self, connector: Connector) -> Path:
        async with connector.connect() as channel:
            return await fetch_bundle(
                channel, None, self._settings.bundle_cache, address=self._settings.decoder
            )

    async def _reach(self, connector: Connector) -> None:
        """Wait until the decoder answers. Raises SessionError after `give_up_after_s`."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        since = loop.time()
        while not self._stopped:
            try:
                async with connector.connect():
                    return
            except SessionError as error:
                explained = await connector.explain(error)
                if settings.give_up_after_s is not None and loop.time() - since >= settings.give_up_after_s:
                    raise SessionError(explained, retryable=False) from None
                self._log.warning("no decoder yet, trying again", error=explained)
                await asyncio.sleep(random.uniform(0, min(settings.reconnect_max_s, 2.0)))  # noqa: S311

    async def _open_source(self) -> Source:
        settings = self._settings
        return await asyncio.to_thread(
            open_source,
            settings.source,
            fps=settings.fps,
            epoch_us=settings.epoch,
            loop=settings.loop,
            realtime=settings.pace == "realtime",
            limit=settings.limit,
            live_timeout_s=settings.source_timeout_s,
        )

    def _rate(self, role: Role) -> Rate:
        settings = self._settings
        if settings.target_kbps is not None:
            return TargetRate(settings.target_kbps)
        if settings.follow_link:
            return FollowLink()
        if settings.rate_level is not None:
            return FixedLevel(settings.rate_level)
        return FixedLevel(role.default_rate_level)

    async def _make_outbox(
        self, stack: AsyncExitStack, queue: CaptureQueue, coder: Coder, role: Role
    ) -> LiveOutbox | SpooledOutbox:
        settings = self._settings
        lossless = settings.pace == "credit"
        if settings.delivery == "live":
            return LiveOutbox(
                queue,
                coder,
                self.account,
                session_id=self.session_id,
                batch_frames=settings.batch_frames,
                max_age_s=None if lossless else settings.max_age_ms / 1000,
            )
        # The settings require a spool. One for each role: they read each other's frames wrongly.
        folder = (settings.spool or Path()) / settings.role
        spool = await asyncio.to_thread(Spool, folder, capacity_bytes=settings.spool_capacity_mbytes << 20)
        thread = SpoolThread(spool)
        stack.push_async_callback(thread.close)
        outbox = SpooledOutbox(
            queue,
            coder,
            role,
            self.account,
            thread,
            lossless=lossless,
            on_change=self._changed.set,
            log=self._log,
        )
        await outbox.begin()
        self.session_id = outbox.session_id
        return outbox

    def _queue_changed(self) -> None:
        if self._queue is not None and self._queue.ended and self._link is not None:
            self._link.source_ended()
        self._changed.set()

    async def _opened(
        self,
        opened: Opened | SideInformationOpened,
        role: Role,
        connector: Connector,
    ) -> None:
        if (
            self._settings.fetch_bundle
            and isinstance(opened, Opened)
            and isinstance(role, CameraRole)
            and opened.preferred_bitstream_id not in (b"", role.bundle.bitstream_id)
            and (self._change is None or self._change.done())
        ):
            self._change = asyncio.create_task(self._change_bundle(role, connector))

    async def _change_bundle(self, role: CameraRole, connector: Connector) -> None:
        """Change over to the bundle that the decoder would rather have; the old one serves until then."""
        await asyncio.sleep(random.uniform(0, _BUNDLE_CHANGE_SPREAD_S))  # noqa: S311
        try:
            path = await self._fetch(connector)
            await asyncio.to_thread(lambda: role.change_bundle(Bundle.load(path, "encoder")))
        except NdscError as error:
            self._log.warning("bundle not changed; the next call tries again", error=str(error))
            return
        if self.rate is not None:
            self.rate.change_bundle(role.rate_levels)
        self.account.event("bundle", bitstream=role.bundle.bitstream_id.hex())
        self._log.info("bundle changed", bundle=role.bundle.name, bitstream_id=role.bundle.bitstream_id.hex())
        self._changed.set()

    async def _recover(self, error: SessionError, role: Role, connector: Connector) -> bool:
        """Whether a session that the decoder refused may go on: with another bundle, if that was the reason."""
        if error.reason != "BITSTREAM_UNKNOWN" or not self._settings.fetch_bundle:
            return False
        if isinstance(role, CameraRole):
            await self._change_bundle(role, connector)
        return True
