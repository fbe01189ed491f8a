"""Takes compressed frames from camera nodes: one StreamFrames call for each camera session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import grpc.aio

from decoder_service.conversation import Conversation, Terms, first_message
from decoder_service.decoding import Decoders, Workers
from decoder_service.fields import (
    check_bitstream_id,
    check_clock,
    check_name,
    check_session_id,
    check_streams,
)
from decoder_service.outputs import FolderWriter, Hub, Picture
from decoder_service.side_information import SideInformationStore
from decoder_service.streams import Account, StreamKey, StreamRegistry
from ndsc.codec.bitstream import CompressedFrame, payload_bounds
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.errors import GeometryError, OutputError
from ndsc.codec.frames import Frame
from ndsc.service.errors import (
    DELIVERY_UNSUPPORTED,
    FIELD_INVALID,
    GEOMETRY_UNSUPPORTED,
    RefusedError,
    abort,
)
from ndsc.service.timestamps import from_timestamp, to_timestamp
from ndsc.v1 import catalog_pb2, types_pb2
from ndsc.v1.frame_stream_pb2 import Ack, Open, Opened, StreamFramesRequest, StreamFramesResponse
from ndsc.v1.frame_stream_pb2 import Frame as FrameMessage
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceServicer
from ndsc.v1.types_pb2 import SideInformationUse


@dataclass(frozen=True)
class PairingTerms:
    """How near side information must be, and how long it is waited for."""

    tolerance_us: int
    wait_s: float


@dataclass(frozen=True)
class SessionParts:
    """What all camera sessions share."""

    registry: StreamRegistry
    store: SideInformationStore
    decoders: Decoders
    workers: Workers
    hub: Hub
    writer: FolderWriter | None
    pairing: PairingTerms


@dataclass(frozen=True)
class _Session:
    """What `open` fixed."""

    decoder: FrameDecoder
    epoch_us: int
    streams: tuple[str, ...]


class _CameraConversation(Conversation[FrameMessage, StreamFramesResponse]):
    def __init__(self, account: Account, terms: Terms, session: _Session, parts: SessionParts) -> None:
        super().__init__(account, terms, parts.registry, StreamFramesResponse)
        self._session = session
        self._parts = parts

    def opened(self) -> StreamFramesResponse:
        return StreamFramesResponse(
            opened=Opened(
                next_sequence=1,
                credit=self.terms.credit(),
                heartbeat_interval_ms=self.terms.heartbeat_interval_ms,
            )
        )

    def ack(self, up_to_sequence: int) -> StreamFramesResponse:
        return StreamFramesResponse(ack=Ack(up_to_sequence=up_to_sequence, credit=self.terms.credit()))

    def size_bytes(self, frame: FrameMessage) -> int:
        return len(frame.payload)

    async def take(self, frame: FrameMessage, arrived: float) -> None:
        account, parts, decoder = self.account, self._parts, self._session.decoder
        account.dropped += frame.dropped_before
        capture_time_us = self._session.epoch_us + frame.capture_offset_us
        to_timestamp(capture_time_us)  # refused before any work when no message could carry it
        account.last_capture_time_us = capture_time_us
        compressed = CompressedFrame(
            decoder.bundle.bitstream_id, frame.rate_level, account.width, account.height, frame.payload
        )
        indices = await parts.workers.run(decoder.unpack, compressed)
        use, side = await self._pair(capture_time_us, arrived)
        image = await parts.decoders.decode(decoder, indices, side)
        picture = Picture(
            rig=account.key.rig,
            camera=account.key.camera,
            session_id=account.session_id,
            sequence=frame.sequence,
            capture_time_us=capture_time_us,
            image=image,
            side_information=use,
            compressed=compressed,
            frame_bytes=frame.ByteSize(),
            decode_us=round((asyncio.get_running_loop().time() - arrived) * 1_000_000),
            bundle_id=bytes.fromhex(decoder.bundle.bundle_id),
        )
        parts.hub.publish(picture)
        await self._write_picture(picture)
        self.log.debug(
            "frame decoded",
            sequence=frame.sequence,
            payload_bytes=len(frame.payload),
            decode_us=picture.decode_us,
        )

    async def _pair(self, capture_time_us: int, arrived: float) -> tuple[SideInformationUse, Frame | None]:
        streams, terms = self._session.streams, self._parts.pairing
        if not streams:
            return SideInformationUse(outcome=types_pb2.SIDE_INFORMATION_OUTCOME_NOT_REQUESTED), None
        account = self.account
        pairing = await self._parts.store.pair(
            account.key.rig,
            streams,
            capture_time_us,
            size=(account.width, account.height),
            tolerance_us=terms.tolerance_us,
            deadline=arrived + terms.wait_s,
        )
        if pairing.paired is None:
            if pairing.other_size is not None:
                stream, width, height = pairing.other_size
                self.warn(
                    "side information of another size is not used",
                    stream=stream,
                    width=width,
                    height=height,
                    frame_width=account.width,
                    frame_height=account.height,
                )
            return SideInformationUse(outcome=types_pb2.SIDE_INFORMATION_OUTCOME_ABSENT), None
        paired = pairing.paired
        use = SideInformationUse(
            outcome=types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED,
            stream=paired.stream,
            capture_time=to_timestamp(paired.frame.capture_time_us),
            offset_us=paired.frame.capture_time_us - capture_time_us,
        )
        return use, paired.frame.image

    async def _write_picture(self, picture: Picture) -> None:
        if self._parts.writer is None:
            return
        try:
            await self._parts.writer.write(picture)
        except (OutputError, OSError) as error:
            self.warn("picture not written", sequence=picture.sequence, error=str(error))


class FrameStreamServicer(FrameStreamServiceServicer):
    """StreamFrames."""

    def __init__(self, *, terms: Terms, handshake_timeout_s: float, parts: SessionParts) -> None:
        self._terms = terms
        self._handshake_timeout_s = handshake_timeout_s
        self._parts = parts

    # grpc.aio takes a coroutine that writes as well as a generator; a generator is not ended with its call.
    async def StreamFrames(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[StreamFramesRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """See the contract."""
        try:
            self._parts.registry.check_accepting()
            first = await first_message(request_iterator, self._handshake_timeout_s)
            account, session = self._open(first.open)
            conversation = _CameraConversation(
                account, self._terms_for(account, session), session, self._parts
            )
            await conversation.run(request_iterator, context.write)
        except RefusedError as error:
            await abort(context, error.reason, str(error))

    def _open(self, request: Open) -> tuple[Account, _Session]:
        check_name("rig", request.rig)
        check_name("camera", request.camera)
        check_session_id(request.session_id)
        check_bitstream_id(request.bitstream_id)
        check_clock(request.clock, request.frame_id)
        streams = check_streams(request.side_information_streams)
        if request.delivery == types_pb2.DELIVERY_ARCHIVE:
            raise RefusedError(DELIVERY_UNSUPPORTED, "delivery ARCHIVE is not offered; stream with LIVE")
        if request.delivery != types_pb2.DELIVERY_LIVE:
            raise RefusedError(FIELD_INVALID, "delivery must be LIVE")
        if not request.HasField("capture_epoch"):
            raise RefusedError(FIELD_INVALID, "capture_epoch must be stated; capture times count from it")
        epoch_us = from_timestamp(request.capture_epoch)
        width, height = request.geometry.width, request.geometry.height
        if width < 1 or height < 1:
            raise RefusedError(FIELD_INVALID, "geometry must state the width and height of every frame")
        decoder = self._parts.decoders.find(request.bitstream_id)
        try:
            decoder.bundle.geometry.check(width, height)
        except GeometryError as error:
            raise RefusedError(GEOMETRY_UNSUPPORTED, str(error)) from error
        key = StreamKey(catalog_pb2.STREAM_KIND_CAMERA, request.rig, request.camera)
        return Account(key, request.session_id, width, height), _Session(decoder, epoch_us, streams)

    def _terms_for(self, account: Account, session: _Session) -> Terms:
        """The server's terms, with credit for one frame of any size that this session can have."""
        bundle = session.decoder.bundle
        grid = bundle.geometry.grid(account.width, account.height)
        largest = max(
            payload_bounds(bundle.bitstream, level, grid)[1] for level in range(bundle.rate_level_count)
        )
        return replace(self._terms, credit_bytes=max(self._terms.credit_bytes, largest))
