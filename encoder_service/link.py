"""Keeps a node's session going: one call after another, through lost links, restarts and changes of bundle."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import grpc
import grpc.aio
import structlog

from encoder_service.account import Account
from encoder_service.frames import CallKey
from encoder_service.metrics import NodeMetrics
from encoder_service.outbox import Outbox
from encoder_service.rate_control import RateController
from encoder_service.role import FrameMessages, Role
from encoder_service.settings import EncoderSettings
from encoder_service.uplink import SessionError, TooLargeError, Uplink
from ndsc.codec.errors import NdscError
from ndsc.service.channel import open_channel
from ndsc.service.diagnosis import diagnose
from ndsc.service.logs import RateLimitedLog
from ndsc.service.tls import Certificates
from ndsc.service.watched import Watched
from ndsc.v1.frame_stream_pb2 import Opened
from ndsc.v1.side_information_pb2 import SideInformationOpened

_FIRST_PAUSE_S: Final = 0.25
_CERTIFICATES_LOOK_S: Final = 5.0


class Connector:
    """Makes channels to the decoder, and says in one line why there is none."""

    def __init__(self, settings: EncoderSettings, certificates: Watched[Certificates] | None) -> None:
        self._settings = settings
        self._watched = certificates
        self._used: Certificates | None = None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel that is ready. Raises SessionError."""
        if self._watched is not None:
            self._used = await asyncio.to_thread(self._watched.current)
        settings = self._settings
        address = settings.decoder
        async with open_channel(address, self._used, name=settings.decoder_name, rig=settings.rig) as channel:
            try:
                async with asyncio.timeout(settings.handshake_timeout_s):
                    state = channel.get_state(try_to_connect=True)
                    while state is not grpc.ChannelConnectivity.READY:
                        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                            raise TimeoutError
                        await channel.wait_for_state_change(state)
                        state = channel.get_state(try_to_connect=True)
            except TimeoutError:
                raise SessionError(
                    f"no decoder answers at {address}: start it with `ndsc serve decoder`, or "
                    f"give its address with --decoder",
                    retryable=True,
                    unavailable=True,
                ) from None
            yield channel

    async def renewed(self) -> bool:
        """Whether the certificate files have changed since the last channel was made."""
        if self._watched is None:
            return False
        return await asyncio.to_thread(self._watched.current) is not self._used

    async def explain(self, error: SessionError) -> str:
        """What an operator should know: gRPC tells a server that is down and a bad certificate alike."""
        if not error.unavailable:
            return str(error)
        files = None if self._used is None else self._used.files
        address, name = self._settings.decoder, self._settings.decoder_name
        return await asyncio.to_thread(diagnose, address, files, name=name) or str(error)


class Link:
    """Sends the frames of an outbox until it is exhausted."""

    def __init__(
        self,
        settings: EncoderSettings,
        role: Role,
        outbox: Outbox,
        rate: RateController,
        account: Account,
        metrics: NodeMetrics,
        connector: Connector,
        *,
        changed: asyncio.Event,
        on_connection: Callable[[bool], Awaitable[None]],
        on_opened: Callable[[Opened | SideInformationOpened], Awaitable[None]],
        recover: Callable[[SessionError], Awaitable[bool]],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """`changed` is set when the outbox has changed. `on_opened` is awaited for each call, `on_connection` too,
        with True, and with False when it has ended.

        `recover` may remove the cause of an error for which the session cannot go on; True: try again.
        """
        self._settings = settings
        self._role = role
        self._outbox = outbox
        self._rate = rate
        self._account = account
        self._metrics = metrics
        self._connector = connector
        self._changed = changed
        self._on_connection = on_connection
        self._on_opened = on_opened
        self._recover = recover
        self._log = log
        self._warnings = RateLimitedLog(log)
        self._uplink: Uplink | None = None
        self._key = CallKey(b"", b"")
        self._reopen = False
        self._ended_s: float | None = None
        self._stopping = asyncio.Event()
        self.calls = 0
        """Calls that were opened."""

    @property
    def connected(self) -> bool:
        """Whether a call is open."""
        return self._uplink is not None

    @property
    def in_flight(self) -> int:
        """Frames sent on the open call and not acknowledged yet."""
        return self._uplink.in_flight if self._uplink is not None else 0

    @property
    def credit_frames(self) -> int:
        """Frames that the decoder lets be in flight."""
        return self._uplink.credit.max_frames if self._uplink is not None else 0

    def source_ended(self) -> None:
        """No more frames will come: live ones are not tried for ever."""
        if self._ended_s is None:
            self._ended_s = asyncio.get_running_loop().time()
        self._changed.set()

    def stop(self) -> None:
        """End once what is there is sent; do not connect again for it."""
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        """Send until the outbox is exhausted and everything acknowledged, or `stop` and no call is open.

        Raises SessionError when the session cannot go on, and what the role raises for a frame.
        """
        loop = asyncio.get_running_loop()
        failures = 0
        trouble_since = loop.time()
        while not self._stopping.is_set():
            calls, acked = self.calls, self._account.acked
            try:
                pause_s = await self._call()
                if pause_s is None:
                    return
                failures, trouble_since = 0, loop.time()
            except SessionError as error:
                if self.calls > calls:
                    trouble_since = loop.time()
                    self._account.event("lost", why=error.reason or str(error))
                if self._account.acked > acked:  # a full archive opens calls, and takes nothing
                    failures = 0
                await self._judge(error, loop.time() - trouble_since)
                # Full jitter: nodes that lost one decoder must not all come back at once.
                longest_s = min(self._settings.reconnect_max_s, _FIRST_PAUSE_S * 2**failures)
                pause_s = random.uniform(0, longest_s)  # noqa: S311 - not for security
                failures = min(failures + 1, 32)
            await self._pause(pause_s)

    async def _judge(self, error: SessionError, trouble_s: float) -> None:
        """Raise the error again when trying further is of no use; else log it."""
        explained = await self._connector.explain(error)
        settings = self._settings
        now_s = asyncio.get_running_loop().time()
        ended_s = now_s if self._ended_s is None else self._ended_s
        at_end = self._stopping.is_set() or now_s - ended_s >= settings.drain_seconds
        give_up = settings.give_up_after_s is not None and trouble_s >= settings.give_up_after_s
        # Certificates are renewed under a running node.
        lasting = not error.retryable and error.reason != "UNAUTHENTICATED"
        if settings.delivery == "live" and at_end:
            left = f"{self._account.in_flight} frames were not acknowledged"
            line = explained if left in explained else f"{explained}; {left}"
            raise SessionError(line, retryable=False, reason=error.reason)
        if give_up or (lasting and not await self._recover(error)):
            raise SessionError(explained, retryable=False, reason=error.reason)
        self._warnings.warning("no session, trying again", error=explained)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _call(self) -> float | None:
        """One call, from the connection to the last acknowledgement.

        Returns seconds to wait before the next one, None when there is no need of one. Raises SessionError.
        """
        self._key = await self._outbox.next_key()
        self._reopen = False
        async with self._connector.connect() as channel:
            uplink = Uplink(
                self._role.call(channel),
                heartbeat=self._role.heartbeat(),
                address=self._settings.decoder,
                receiver=self,
                changed=self._changed,
                log=self._log,
            )
            look = asyncio.create_task(self._look_at_certificates())
            try:
                await self._converse(uplink)
            finally:
                look.cancel()
                if self._uplink is not None:
                    self._uplink = None
                    await self._on_connection(False)
                self._rate.disconnected()
                await uplink.close()
                self._outbox.disconnected()
        if self._outbox.exhausted:
            return None
        return uplink.retry_after_s * random.uniform(1, 1.5) if uplink.draining else 0.0  # noqa: S311

    async def _converse(self, uplink: Uplink) -> None:
        key, outbox = self._key, self._outbox
        first = await outbox.first_unacknowledged(key)
        epoch_us = outbox.epoch_us()
        opened = await uplink.open(self._role.open(key, first, epoch_us), self._settings.handshake_timeout_s)
        if opened.next_sequence < first:
            raise SessionError(
                f"the decoder at {self._settings.decoder} wants frame {opened.next_sequence}, and {first} is the "
                f"first that this node still holds; do both ends run the same release?",
                retryable=False,
            )
        self.calls += 1
        self._uplink = uplink
        self._metrics.connected()
        self._account.event(
            "opened",
            session=key.session_id.hex(),
            next_sequence=opened.next_sequence,
            resumed=opened.resumed,
        )
        await outbox.resume(key, opened.next_sequence, resumed=opened.resumed)
        await self._on_connection(True)
        await self._on_opened(opened)
        messages = self._role.messages(opened.next_sequence, epoch_us)
        failure: NdscError | None = None
        try:
            while await self._send(uplink, messages):
                pass
        except SessionError:
            raise
        except NdscError as error:  # what was sent before is still finished
            failure = error
        await uplink.finish(self._settings.drain_seconds)
        if failure is not None:
            raise failure

    async def _send(self, uplink: Uplink, messages: FrameMessages) -> bool:
        """Send one message when there is something to send and credit for it. False: the call is to end."""
        outbox = self._outbox
        await self._until(
            uplink,
            lambda: self._over(uplink) or outbox.exhausted or (outbox.ready and uplink.free_frames() > 0),
        )
        if self._over(uplink) or outbox.exhausted:
            return False
        frames = await outbox.prepare(min(uplink.free_frames(), self._role.frames_a_message))
        if not frames:
            return True
        if frames[0].key != self._key:
            return False
        # The first alone when they are too large together: it must wait for its credit in any case.
        if not uplink.covers(len(frames), sum(len(frame.data) for frame in frames)):
            frames = frames[:1]
        size_bytes = sum(len(frame.data) for frame in frames)
        try:
            await self._until(uplink, lambda: uplink.draining or _covers(uplink, len(frames), size_bytes))
        except TooLargeError as error:
            if not outbox.give_up(frames):
                raise
            self._warnings.warning("frame dropped", sequence=frames[0].sequence, reason=str(error))
            return True
        if uplink.draining:
            return False
        request = messages.request(frames)
        message_bytes = request.ByteSize()
        # All is told before the message leaves: its acknowledgement may come before `send` returns.
        self._account.send(frames, message_bytes)
        self._rate.sent(asyncio.get_running_loop().time(), message_bytes)
        outbox.sent(frames)
        await uplink.send(frames, request)
        return True

    def _over(self, uplink: Uplink) -> bool:
        return uplink.draining or self._reopen

    async def _until(self, uplink: Uplink, condition: Callable[[], bool]) -> None:
        """Wait for a condition; once a live source has ended, not for ever. Raises SessionError."""
        patience_s = self._settings.drain_seconds
        if self._settings.delivery == "archive":
            await uplink.until(condition)
            return
        await uplink.until(lambda: condition() or self._ended_s is not None)
        try:
            async with asyncio.timeout(patience_s):
                await uplink.until(condition)
        except TimeoutError:
            raise SessionError(
                f"the decoder at {self._settings.decoder} took no frame for {patience_s:g} s; the last ones "
                f"were not sent",
                retryable=False,
            ) from None

    async def _look_at_certificates(self) -> None:
        """Go on in another call when the certificate files have changed."""
        while True:
            await asyncio.sleep(_CERTIFICATES_LOOK_S)
            if await self._connector.renewed():
                self._log.info("the certificate has changed; going on in another call with it")
                self._reopen = True
                self._changed.set()
                return

    def acknowledged(self, up_to_sequence: int, times_s: Sequence[float]) -> None:
        """The decoder is done with frames of this call, each so long after it was sent."""
        for seconds in times_s:
            self._metrics.round_trip(seconds)
        self._rate.acknowledged(asyncio.get_running_loop().time(), len(times_s))
        self._outbox.acknowledged(self._key, up_to_sequence)

    def failed(self, sequence: int, reason: str) -> None:
        """The decoder could not take a frame of this call."""
        self._account.fail(self._key.session_id, sequence, reason)


def _covers(uplink: Uplink, frames: int, size_bytes: int) -> bool:
    uplink.check_size(size_bytes)
    return uplink.covers(frames, size_bytes)
