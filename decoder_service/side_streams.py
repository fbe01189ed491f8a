"""Takes side information from cameras: one StreamSideInformation call for each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc.aio

from decoder_service.conversation import Conversation, Terms, first_message
from decoder_service.decoding import Workers
from decoder_service.fields import check_clock, check_name, check_session_id
from decoder_service.side_information import SideFrame, SideInformationStore
from decoder_service.streams import Account, StreamKey, StreamRegistry
from ndsc.service.errors import FIELD_INVALID, GEOMETRY_UNSUPPORTED, IMAGE_INVALID, RefusedError, abort
from ndsc.service.images import check_image, from_image, max_image_bytes
from ndsc.service.timestamps import from_timestamp
from ndsc.v1 import catalog_pb2
from ndsc.v1.side_information_pb2 import (
    SideInformationAck,
    SideInformationFrame,
    SideInformationOpen,
    SideInformationOpened,
    StreamSideInformationRequest,
    StreamSideInformationResponse,
)
from ndsc.v1.side_information_pb2_grpc import SideInformationServiceServicer


class _SideConversation(Conversation[SideInformationFrame, StreamSideInformationResponse]):
    def __init__(
        self,
        account: Account,
        terms: Terms,
        registry: StreamRegistry,
        store: SideInformationStore,
        workers: Workers,
    ) -> None:
        super().__init__(account, terms, registry, StreamSideInformationResponse)
        self._store = store
        self._workers = workers

    def opened(self) -> StreamSideInformationResponse:
        self._store.forget(self.account.key.rig, self.account.key.camera)
        return StreamSideInformationResponse(
            opened=SideInformationOpened(
                credit=self.terms.credit(), heartbeat_interval_ms=self.terms.heartbeat_interval_ms
            )
        )

    def ack(self, up_to_sequence: int) -> StreamSideInformationResponse:
        return StreamSideInformationResponse(
            ack=SideInformationAck(up_to_sequence=up_to_sequence, credit=self.terms.credit())
        )

    def size_bytes(self, frame: SideInformationFrame) -> int:
        return len(frame.image.data)

    async def take(self, frame: SideInformationFrame, arrived: float) -> None:
        self.account.dropped += frame.dropped_before
        if not frame.HasField("capture_time"):
            raise RefusedError(FIELD_INVALID, "a side-information frame must state its capture_time")
        capture_time_us = from_timestamp(frame.capture_time)
        self.account.last_capture_time_us = capture_time_us
        pixels = self.account.width * self.account.height
        check_image(frame.image, max_pixels=pixels)
        if (frame.image.width, frame.image.height) != (self.account.width, self.account.height):
            raise RefusedError(
                IMAGE_INVALID,
                f"the image is {frame.image.width}x{frame.image.height} pixels, but the stream "
                f"was opened for {self.account.width}x{self.account.height}",
            )
        image = await self._workers.run(from_image, frame.image, max_pixels=pixels)
        key = self.account.key
        if self.account.open:  # else another session took over meanwhile, and the frames held are its own
            self._store.put(key.rig, key.camera, SideFrame(image, capture_time_us))


class SideInformationServicer(SideInformationServiceServicer):
    """StreamSideInformation."""

    def __init__(
        self,
        *,
        terms: Terms,
        handshake_timeout_s: float,
        max_pixels: int,
        registry: StreamRegistry,
        store: SideInformationStore,
        workers: Workers,
    ) -> None:
        self._terms = terms
        self._handshake_timeout_s = handshake_timeout_s
        self._max_pixels = max_pixels
        self._registry = registry
        self._store = store
        self._workers = workers

    # grpc.aio takes a coroutine that writes as well as a generator; a generator is not ended with its call.
    async def StreamSideInformation(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[StreamSideInformationRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """See the contract."""
        try:
            self._registry.check_accepting()
            first = await first_message(request_iterator, self._handshake_timeout_s)
            account = self._account(first.open)
            # Images are large, so their credit follows from the stated size; the frame count bounds it.
            image_bytes = max_image_bytes(account.width * account.height)
            terms = replace(self._terms, credit_bytes=self._terms.credit_frames * image_bytes)
            conversation = _SideConversation(account, terms, self._registry, self._store, self._workers)
            await conversation.run(request_iterator, context.write)
        except RefusedError as error:
            await abort(context, error.reason, str(error))

    def _account(self, request: SideInformationOpen) -> Account:
        check_name("rig", request.rig)
        check_name("camera", request.camera)
        check_session_id(request.session_id)
        check_clock(request.clock, request.frame_id)
        width, height = request.geometry.width, request.geometry.height
        if width < 1 or height < 1:
            raise RefusedError(FIELD_INVALID, "geometry must state the width and height of every frame")
        if width * height > self._max_pixels:
            raise RefusedError(
                GEOMETRY_UNSUPPORTED,
                f"side information of {width}x{height} pixels is larger "
                f"than any frame decoded here ({self._max_pixels} pixels)",
            )
        key = StreamKey(catalog_pb2.STREAM_KIND_SIDE_INFORMATION, request.rig, request.camera)
        return Account(key, request.session_id, width, height)
