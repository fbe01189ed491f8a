"""Takes compressed frames from camera nodes: one StreamFrames call after another for each camera session.

LIVE      a frame is decoded, then acknowledged.
ARCHIVE   a frame is checked and stored, then acknowledged; `backlog` decodes what is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import grpc.aio

from decoder_service.archive import AsyncArchive
from decoder_service.backlog import Backlog, frame_row, opening_of, stored_account
from decoder_service.conversation import Arrived, Conversation, Terms
from decoder_service.decoding import Decoders, Workers
from decoder_service.fields import (
    check_bitstream_id,
    check_clock,
    check_name,
    check_pixels,
    check_sequence,
    check_session_id,
    check_streams,
)
from decoder_service.handshake import Doorkeeper, first_message
from decoder_service.metrics import DecoderMetrics
from decoder_service.outputs import Picture
from decoder_service.pictures import Job, PairingTerms, PictureMaker
from decoder_service.publisher import Publisher
from decoder_service.streams import Account, StreamKey, StreamRegistry
from ndsc.codec.bitstream import CompressedFrame, payload_bounds
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.errors import GeometryError, NdscError
from ndsc.service.authority import Authority
from ndsc.service.errors import (
    DELIVERY_UNSUPPORTED,
    FIELD_INVALID,
    GEOMETRY_UNSUPPORTED,
    STORE_FULL,
    RefusedError,
    abort,
    reason_of,
)
from ndsc.service.history import History
from ndsc.service.sqlite import StoreError
from ndsc.service.timestamps import from_timestamp, to_timestamp
from ndsc.v1 import catalog_pb2, types_pb2
from ndsc.v1.frame_stream_pb2 import Ack, Open, Opened, StreamFramesRequest, StreamFramesResponse
from ndsc.v1.frame_stream_pb2 import Frame as FrameMessage
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceServicer
from ndsc.v1.types_pb2 import Credit

ResultT = TypeVar("ResultT")

_STALE_S: Final = 0.5
"""A live frame that is longer here, its wait for side information aside, takes credit from its camera."""


@dataclass(frozen=True)
class SessionParts:
    """What all camera sessions share."""

    registry: StreamRegistry
    authority: Authority
    decoders: Decoders
    workers: Workers
    maker: PictureMaker
    publisher: Publisher
    pairing: PairingTerms
    archive: AsyncArchive | None
    backlog: Backlog | None
    history: History
    metrics: DecoderMetrics
    max_pixels: int


@dataclass(frozen=True)
class _Call:
    """What `open` fixed for this call."""

    open: Open
    decoder: FrameDecoder
    resumed: bool


class _CameraConversation(Conversation[FrameMessage, StreamFramesResponse, ResultT]):
    """What both deliveries have in common."""

    def __init__(self, account: Account, terms: Terms, call: _Call, parts: SessionParts) -> None:
        super().__init__(
            account,
            terms,
            parts.registry,
            StreamFramesResponse,
            history=parts.history.bind(kind="camera"),
            metrics=parts.metrics,
        )
        self._call = call
        self._parts = parts
        self._time_us = from_timestamp(call.open.capture_epoch)

    def opened(self, next_sequence: int) -> StreamFramesResponse:
        self.history.record(
            "opened",
            delivery=types_pb2.Delivery.Name(self.account.delivery).removeprefix("DELIVERY_"),
            next_sequence=next_sequence,
            resumed=self._call.resumed,
        )
        return StreamFramesResponse(
            opened=Opened(
                next_sequence=next_sequence,
                credit=self.terms.credit(),
                heartbeat_interval_ms=self.terms.heartbeat_interval_ms,
                resumed=self._call.resumed,
                preferred_bitstream_id=self._parts.decoders.preferred.bitstream_id,
            )
        )

    def ack(self, up_to_sequence: int, credit: Credit) -> StreamFramesResponse:
        return StreamFramesResponse(ack=Ack(up_to_sequence=up_to_sequence, credit=credit))

    def size_bytes(self, frame: FrameMessage) -> int:
        return len(frame.payload)

    def capture_time_us(self, frame: FrameMessage) -> int:
        self._time_us += frame.capture_delta_us
        return self._time_us

    def compressed(self, frame: FrameMessage) -> CompressedFrame:
        """The frame, complete in itself."""
        return CompressedFrame(
            self._call.decoder.bundle.bitstream_id,
            frame.rate_level,
            self.account.width,
            self.account.height,
            frame.payload,
        )


class _LiveConversation(_CameraConversation[Picture]):
    def __init__(self, account: Account, terms: Terms, call: _Call, parts: SessionParts) -> None:
        super().__init__(account, terms, call, parts)
        self._credit_frames = terms.credit_frames

    def credit_after(self, arrived: Arrived[FrameMessage]) -> Credit:
        """Less while frames wait long here: on its node an old frame gives way to a new one, here it cannot."""
        age_s = asyncio.get_running_loop().time() - arrived.time
        stale_s = self._parts.pairing.wait_s + _STALE_S
        if age_s > stale_s:
            self._credit_frames = max(1, self._credit_frames - 1)
        elif age_s < stale_s / 2:
            self._credit_frames = min(self.terms.credit_frames, self._credit_frames + 1)
        return Credit(max_frames=self._credit_frames, max_bytes=self.terms.credit_bytes)

    async def take(self, arrived: Arrived[FrameMessage]) -> Picture:
        return await self._parts.maker.make(
            Job(
                key=self.account.key,
                session_id=self.account.session_id,
                sequence=arrived.sequence,
                capture_time_us=arrived.capture_time_us,
                compressed=self.compressed(arrived.frame),
                frame_bytes=arrived.frame.ByteSize(),
                streams=self.account.streams,
                arrived=arrived.time,
                deadline=arrived.time + self._parts.pairing.wait_s,
                stored=False,
                warn=self.warn,
            )
        )

    def deliver(self, arrived: Arrived[FrameMessage], result: Picture) -> None:
        self.account.last_capture_time_us = arrived.capture_time_us
        self._parts.publisher.publish(result, self.account)


class _ArchiveConversation(_CameraConversation[bool]):
    def __init__(
        self,
        account: Account,
        terms: Terms,
        call: _Call,
        parts: SessionParts,
        archive: AsyncArchive,
        backlog: Backlog,
    ) -> None:
        super().__init__(account, terms, call, parts)
        self._archive = archive
        self._backlog = backlog
        self._opening = opening_of(call.open)

    async def take(self, arrived: Arrived[FrameMessage]) -> bool:
        """Whether the frame is new to the archive."""
        # To the end, even when the call ends meanwhile: what is committed must also be told to the backlog.
        return await asyncio.shield(asyncio.ensure_future(self._store(arrived)))

    def deliver(self, arrived: Arrived[FrameMessage], result: bool) -> None:
        self.account.last_capture_time_us = arrived.capture_time_us
        self.account.abandoned += not result

    async def _store(self, arrived: Arrived[FrameMessage]) -> bool:
        try:
            fresh = await self._store_or_fail(arrived, self.compressed(arrived.frame))
        except StoreError as error:
            # Not this frame's fault: the node keeps it and comes back with it.
            self.end(RefusedError(STORE_FULL, str(error)))
            return False
        if fresh:
            self.keep(arrived)
            self._backlog.wake(self.account.key)
        return fresh

    async def _store_or_fail(self, arrived: Arrived[FrameMessage], compressed: CompressedFrame) -> bool:
        key, opened = self.account.key, self._call.open
        try:
            to_timestamp(arrived.capture_time_us)
            with self.metrics.stage("unpack"):
                await self._parts.workers.run(self._call.decoder.unpack, compressed)
        except NdscError as error:
            await self._archive.fail(
                key.rig,
                key.camera,
                self.account.session_id,
                arrived.sequence,
                int(reason_of(error)),
                opening=self._opening,
                dropped_before=arrived.frame.dropped_before,
            )
            raise
        row = frame_row(opened, self._opening, arrived.frame, arrived.sequence, arrived.capture_time_us)
        with self.metrics.stage("store"):
            fresh = await self._archive.store(row)
        self.metrics.stored(key, fresh=fresh)
        self.history.record("stored" if fresh else "duplicate", sequence=arrived.sequence)
        return fresh


class FrameStreamServicer(FrameStreamServiceServicer):
    """StreamFrames."""

    def __init__(self, *, terms: Terms, handshake_timeout_s: float, parts: SessionParts) -> None:
        self._terms = terms
        self._handshake_timeout_s = handshake_timeout_s
        self._parts = parts
        self._doorkeeper = Doorkeeper()

    # grpc.aio takes a coroutine that writes as well as a generator; a generator is not ended with its call.
    async def StreamFrames(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[StreamFramesRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """See the contract."""
        parts = self._parts
        try:
            async with self._doorkeeper.opening(context):
                parts.registry.check_accepting()
                first = await first_message(request_iterator, self._handshake_timeout_s)
                opened = first.open
                peer = parts.authority.check(context, role="camera", rig=opened.rig, name=opened.camera)
                account, call = await self._open(opened)
            terms = self._terms_for(account, call)
            conversation: _LiveConversation | _ArchiveConversation
            if account.delivery == types_pb2.DELIVERY_ARCHIVE:
                conversation = _ArchiveConversation(account, terms, call, parts, *self._stores())
            else:
                conversation = _LiveConversation(account, terms, call, parts)
            async with peer.while_current():
                await conversation.run(request_iterator, context.write)
        except RefusedError as error:
            parts.metrics.refused(error.reason)
            await abort(context, error.reason, str(error))

    async def _open(self, request: Open) -> tuple[Account, _Call]:
        check_name("rig", request.rig)
        check_name("camera", request.camera)
        check_session_id(request.session_id)
        check_bitstream_id(request.bitstream_id)
        check_clock(request.clock, request.frame_id)
        streams = check_streams(request.side_information_streams)
        if request.delivery not in (types_pb2.DELIVERY_LIVE, types_pb2.DELIVERY_ARCHIVE):
            raise RefusedError(FIELD_INVALID, "delivery must be LIVE or ARCHIVE")
        if request.delivery == types_pb2.DELIVERY_ARCHIVE:
            self._stores()
        if not request.HasField("capture_epoch"):
            raise RefusedError(FIELD_INVALID, "capture_epoch must be stated; capture times count from it")
        from_timestamp(request.capture_epoch)
        width, height = request.geometry.width, request.geometry.height
        if width < 1 or height < 1:
            raise RefusedError(FIELD_INVALID, "geometry must state the width and height of every frame")
        decoder = self._parts.decoders.find(request.bitstream_id)
        try:
            decoder.bundle.geometry.check(width, height)
        except GeometryError as error:
            raise RefusedError(GEOMETRY_UNSUPPORTED, str(error)) from error
        check_pixels(width, height, self._parts.max_pixels)
        account, resumed = await self._account(request)
        account.streams = streams
        account.clock = request.clock
        account.done_sequence = max(account.done_sequence, check_sequence(request.next_sequence) - 1)
        return account, _Call(request, decoder, resumed)

    def _stores(self) -> tuple[AsyncArchive, Backlog]:
        """Where ARCHIVE frames go. Raises RefusedError (DELIVERY_UNSUPPORTED)."""
        if self._parts.archive is None or self._parts.backlog is None:
            raise RefusedError(
                DELIVERY_UNSUPPORTED,
                "this decoder has no archive; start it with --archive FOLDER, or stream with delivery live",
            )
        return self._parts.archive, self._parts.backlog

    async def _account(self, request: Open) -> tuple[Account, bool]:
        """The session's account, and whether the server knew it."""
        key = StreamKey(catalog_pb2.STREAM_KIND_CAMERA, request.rig, request.camera)
        fresh = Account(
            key, request.session_id, request.geometry.width, request.geometry.height, request.delivery
        )
        known = self._parts.registry.resume(key, request.session_id)
        if known is None and request.delivery == types_pb2.DELIVERY_ARCHIVE:
            stored = await stored_account(self._stores()[0], key, request.session_id)
            # The backlog may have come first: what it decodes must be counted in the same account.
            known = self._parts.registry.resume(key, request.session_id) or stored
        if known is None:
            return fresh, False
        if (known.width, known.height, known.delivery) != (fresh.width, fresh.height, fresh.delivery):
            raise RefusedError(
                FIELD_INVALID,
                "a session keeps its geometry and delivery; open a session with another session_id",
            )
        return known, True

    def _terms_for(self, account: Account, call: _Call) -> Terms:
        """The server's terms, with credit for one frame of any size that this session can have."""
        bundle = call.decoder.bundle
        grid = bundle.geometry.grid(account.width, account.height)
        largest = max(
            payload_bounds(bundle.bitstream, level, grid)[1] for level in range(bundle.rate_level_count)
        )
        return replace(self._terms, credit_bytes=max(self._terms.credit_bytes, largest))
