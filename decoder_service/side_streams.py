"""Takes side information from cameras: one StreamSideInformation call for each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import grpc.aio

from decoder_service.archive import AsyncArchive, SideRow
from decoder_service.conversation import Arrived, Conversation, Terms
from decoder_service.decoding import Workers
from decoder_service.fields import check_clock, check_name, check_sequence, check_session_id
from decoder_service.handshake import Doorkeeper, first_message
from decoder_service.metrics import DecoderMetrics
from decoder_service.outputs import Hub, SidePicture
from decoder_service.side_information import SideFrame, SideInformationStore
from decoder_service.streams import Account, StreamKey, StreamRegistry
from ndsc.service.authority import Authority
from ndsc.service.errors import (
    DELIVERY_UNSUPPORTED,
    FIELD_INVALID,
    GEOMETRY_UNSUPPORTED,
    IMAGE_INVALID,
    STORE_FULL,
    RefusedError,
    abort,
)
from ndsc.service.history import History
from ndsc.service.images import check_image, from_image, max_image_bytes
from ndsc.service.sqlite import StoreError
from ndsc.service.timestamps import from_timestamp
from ndsc.v1 import catalog_pb2, types_pb2
from ndsc.v1.side_information_pb2 import (
    SideInformationAck,
    SideInformationFrame,
    SideInformationOpen,
    SideInformationOpened,
    StreamSideInformationRequest,
    StreamSideInformationResponse,
)
from ndsc.v1.side_information_pb2_grpc import SideInformationServiceServicer
from ndsc.v1.types_pb2 import Credit


@dataclass(frozen=True)
class SideParts:
    """What all side-information streams share."""

    registry: StreamRegistry
    authority: Authority
    store: SideInformationStore
    hub: Hub
    archive: AsyncArchive | None
    workers: Workers
    history: History
    metrics: DecoderMetrics
    max_pixels: int


class _SideConversation(Conversation[SideInformationFrame, StreamSideInformationResponse, SideFrame]):
    def __init__(self, account: Account, terms: Terms, parts: SideParts, *, resumed: bool) -> None:
        super().__init__(
            account,
            terms,
            parts.registry,
            StreamSideInformationResponse,
            history=parts.history.bind(kind="side"),
            metrics=parts.metrics,
        )
        self._parts = parts
        self._resumed = resumed

    def opened(self, next_sequence: int) -> StreamSideInformationResponse:
        if not self._resumed:
            # A new session has its own clock and its own pictures.
            self._parts.store.forget(self.account.key.rig, self.account.key.camera)
        self.history.record("opened", next_sequence=next_sequence, resumed=self._resumed)
        return StreamSideInformationResponse(
            opened=SideInformationOpened(
                next_sequence=next_sequence,
                credit=self.terms.credit(),
                heartbeat_interval_ms=self.terms.heartbeat_interval_ms,
                resumed=self._resumed,
            )
        )

    def ack(self, up_to_sequence: int, credit: Credit) -> StreamSideInformationResponse:
        return StreamSideInformationResponse(
            ack=SideInformationAck(up_to_sequence=up_to_sequence, credit=credit)
        )

    def size_bytes(self, frame: SideInformationFrame) -> int:
        return len(frame.image.data)

    def capture_time_us(self, frame: SideInformationFrame) -> int:
        return frame.capture_time.seconds * 1_000_000 + frame.capture_time.nanos // 1_000

    async def take(self, arrived: Arrived[SideInformationFrame]) -> SideFrame:
        frame, capture_time_us = arrived.frame, arrived.capture_time_us
        if not frame.HasField("capture_time"):
            raise RefusedError(FIELD_INVALID, "a side-information frame must state its capture_time")
        from_timestamp(frame.capture_time)
        self.account.last_capture_time_us = capture_time_us
        pixels = self.account.width * self.account.height
        check_image(frame.image, max_pixels=pixels)
        if (frame.image.width, frame.image.height) != (self.account.width, self.account.height):
            raise RefusedError(
                IMAGE_INVALID,
                f"the image is {frame.image.width}x{frame.image.height} pixels, but the stream "
                f"was opened for {self.account.width}x{self.account.height}",
            )
        image = await self._parts.workers.run(from_image, frame.image, max_pixels=pixels)
        if self._parts.archive is not None:
            await self._keep(self._parts.archive, arrived, capture_time_us)
        return SideFrame(image, capture_time_us)

    def deliver(self, arrived: Arrived[SideInformationFrame], result: SideFrame) -> None:
        self.account.decoded += 1
        self.metrics.held(self.account.key)
        self.history.record("decoded", sequence=arrived.sequence, capture_time_us=result.capture_time_us)
        key = self.account.key
        self._parts.store.put(key.rig, key.camera, result)
        self._parts.hub.publish(SidePicture(key.rig, key.camera, result.capture_time_us, arrived.frame.image))

    async def _keep(
        self, archive: AsyncArchive, arrived: Arrived[SideInformationFrame], capture_time_us: int
    ) -> None:
        """Store the image as it came, for frames that arrive much later; a live stream goes on without."""
        key, image = self.account.key, arrived.frame.image
        try:
            await archive.put_side(
                SideRow(
                    key.rig,
                    key.camera,
                    self.account.session_id,
                    arrived.sequence,
                    capture_time_us,
                    image.format,
                    image.width,
                    image.height,
                    image.data,
                )
            )
        except StoreError as error:
            if self.account.delivery == types_pb2.DELIVERY_ARCHIVE:
                self.end(RefusedError(STORE_FULL, str(error)))
            self.warn("side information not stored", sequence=arrived.sequence, error=str(error))


class SideInformationServicer(SideInformationServiceServicer):
    """StreamSideInformation."""

    def __init__(self, *, terms: Terms, handshake_timeout_s: float, parts: SideParts) -> None:
        self._terms = terms
        self._handshake_timeout_s = handshake_timeout_s
        self._parts = parts
        self._doorkeeper = Doorkeeper()

    # grpc.aio takes a coroutine that writes as well as a generator; a generator is not ended with its call.
    async def StreamSideInformation(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[StreamSideInformationRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """See the contract."""
        parts = self._parts
        try:
            async with self._doorkeeper.opening(context):
                parts.registry.check_accepting()
                first = await first_message(request_iterator, self._handshake_timeout_s)
                opened = first.open
                peer = parts.authority.check(
                    context, role="side-information", rig=opened.rig, name=opened.camera
                )
                account, resumed = await self._account(opened)
            # Images are large, so their credit follows from the stated size; the frame count bounds it.
            image_bytes = max_image_bytes(account.width * account.height)
            terms = replace(self._terms, credit_bytes=self._terms.credit_frames * image_bytes)
            conversation = _SideConversation(account, terms, parts, resumed=resumed)
            async with peer.while_current():
                await conversation.run(request_iterator, context.write)
        except RefusedError as error:
            parts.metrics.refused(error.reason)
            await abort(context, error.reason, str(error))

    async def _account(self, request: SideInformationOpen) -> tuple[Account, bool]:
        """The stream's account, and whether the server knew its session."""
        check_name("rig", request.rig)
        check_name("camera", request.camera)
        check_session_id(request.session_id)
        check_clock(request.clock, request.frame_id)
        width, height = request.geometry.width, request.geometry.height
        if width < 1 or height < 1:
            raise RefusedError(FIELD_INVALID, "geometry must state the width and height of every frame")
        if width * height > self._parts.max_pixels:
            raise RefusedError(
                GEOMETRY_UNSUPPORTED,
                f"side information of {width}x{height} pixels is larger "
                f"than any frame decoded here ({self._parts.max_pixels} pixels)",
            )
        delivery = request.delivery or types_pb2.DELIVERY_LIVE
        if delivery not in (types_pb2.DELIVERY_LIVE, types_pb2.DELIVERY_ARCHIVE):
            raise RefusedError(FIELD_INVALID, "delivery must be LIVE or ARCHIVE")
        if delivery == types_pb2.DELIVERY_ARCHIVE and self._parts.archive is None:
            raise RefusedError(
                DELIVERY_UNSUPPORTED,
                "this decoder has no archive; start it with --archive FOLDER, or stream with delivery live",
            )
        key = StreamKey(catalog_pb2.STREAM_KIND_SIDE_INFORMATION, request.rig, request.camera)
        account = self._parts.registry.resume(key, request.session_id)
        resumed = account is not None
        if account is None:
            account = Account(key, request.session_id, width, height, delivery)
            if self._parts.archive is not None and delivery == types_pb2.DELIVERY_ARCHIVE:
                last = await self._parts.archive.last_side_sequence(key.rig, key.camera, request.session_id)
                account.done_sequence, resumed = last, last > 0
        if (account.width, account.height, account.delivery) != (width, height, delivery):
            raise RefusedError(
                FIELD_INVALID,
                "a session keeps its geometry and delivery; open a session with another session_id",
            )
        account.done_sequence = max(account.done_sequence, check_sequence(request.next_sequence) - 1)
        return account, resumed
