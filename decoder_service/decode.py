"""Gives decoded frames to clients: Decode for one frame, Subscribe for those of a rig's cameras."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from decoder_service.decoding import Decoders, Workers
from decoder_service.fields import check_bitstream_id, check_name, check_pixels
from decoder_service.outputs import Hub, Picture, SidePicture
from decoder_service.side_information import SideInformationStore
from decoder_service.streams import StreamKey, StreamRegistry
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.errors import NdscError
from ndsc.codec.frames import Frame
from ndsc.service.authority import Authority
from ndsc.service.errors import (
    FIELD_INVALID,
    OVERLOADED,
    SIDE_INFORMATION_GEOMETRY,
    SIDE_INFORMATION_NOT_FOUND,
    STREAM_UNKNOWN,
    RefusedError,
    abort,
    reason_of,
)
from ndsc.service.images import answer_format, check_image, from_image, to_image
from ndsc.service.timestamps import from_timestamp, to_timestamp
from ndsc.v1 import catalog_pb2, types_pb2
from ndsc.v1.decode_pb2 import (
    DecodedFrame,
    DecodeRequest,
    DecodeResponse,
    HeldSideInformation,
    Missed,
    Subscribed,
    SubscribeRequest,
    SubscribeResponse,
)
from ndsc.v1.decode_pb2_grpc import DecodeServiceServicer
from ndsc.v1.types_pb2 import Image, SideInformationReference, SideInformationUse


class DecodeServicer(DecodeServiceServicer):
    """Decode and Subscribe."""

    def __init__(
        self,
        *,
        decoders: Decoders,
        store: SideInformationStore,
        registry: StreamRegistry,
        authority: Authority,
        hub: Hub,
        workers: Workers,
        tolerance_us: int,
        max_decodes: int,
        max_pixels: int,
    ) -> None:
        self._decoders = decoders
        self._store = store
        self._registry = registry
        self._authority = authority
        self._hub = hub
        self._workers = workers
        self._tolerance_us = tolerance_us
        self._max_decodes = max_decodes
        self._max_pixels = max_pixels
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Wait until no Decode is under way."""
        await self._idle.wait()

    async def Decode(  # noqa: N802
        self, request: DecodeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> DecodeResponse:
        """See the contract."""
        try:
            reference = request.side_reference if request.HasField("side_reference") else None
            self._authority.check(context, role="client", rig=None if reference is None else reference.rig)
            self._registry.check_accepting()
            if self._under_way >= self._max_decodes:
                raise RefusedError(
                    OVERLOADED,
                    f"{self._under_way} Decode calls are under way, as many as this server takes; "
                    f"try again when some have ended",
                )
            return await self._counted(request)
        except NdscError as error:
            await abort(context, reason_of(error), str(error))

    async def _counted(self, request: DecodeRequest) -> DecodeResponse:
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._decode(request)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _decode(self, request: DecodeRequest) -> DecodeResponse:
        image_format = answer_format(request.format)
        if not request.HasField("frame"):
            raise RefusedError(FIELD_INVALID, "a request must hold a frame")
        message = request.frame
        decoder = self._decoders.find(check_bitstream_id(message.bitstream_id))
        width, height = message.geometry.width, message.geometry.height
        decoder.bundle.stages_sent(message.rate_level)
        decoder.bundle.geometry.check(width, height)
        check_pixels(width, height, self._max_pixels)
        frame = CompressedFrame(message.bitstream_id, message.rate_level, width, height, message.payload)
        indices = await self._workers.run(decoder.unpack, frame)
        use, side = await self._side_information(request, width, height)
        decoded = await self._decoders.decode(decoder, indices, side)
        image = await self._workers.run(to_image, decoded, image_format)
        return DecodeResponse(
            image=image, side_information=use, bundle_id=bytes.fromhex(decoder.bundle.bundle_id)
        )

    async def _side_information(
        self, request: DecodeRequest, width: int, height: int
    ) -> tuple[SideInformationUse, Frame | None]:
        kind = request.WhichOneof("side_information")
        if kind == "side_image":
            return await self._inline(request.side_image, width, height)
        if kind == "side_reference":
            return self._held(request.side_reference, width, height)
        return SideInformationUse(outcome=types_pb2.SIDE_INFORMATION_OUTCOME_NOT_REQUESTED), None

    async def _inline(self, image: Image, width: int, height: int) -> tuple[SideInformationUse, Frame]:
        check_image(image, max_pixels=self._max_pixels)
        _check_size(image.width, image.height, width, height)
        side = await self._workers.run(from_image, image, max_pixels=self._max_pixels)
        return SideInformationUse(outcome=types_pb2.SIDE_INFORMATION_OUTCOME_INLINE), side

    def _held(
        self, reference: SideInformationReference, width: int, height: int
    ) -> tuple[SideInformationUse, Frame]:
        rig, stream = check_name("rig", reference.rig), check_name("stream", reference.stream)
        if not reference.HasField("capture_time"):
            raise RefusedError(FIELD_INVALID, "a side-information reference must state a capture_time")
        wanted_us = from_timestamp(reference.capture_time)
        kinds = (catalog_pb2.STREAM_KIND_SIDE_INFORMATION, catalog_pb2.STREAM_KIND_CAMERA)
        if not any(self._registry.known(StreamKey(kind, rig, stream)) for kind in kinds):
            raise RefusedError(STREAM_UNKNOWN, f"rig {rig!r} has opened no stream {stream!r}")
        found = self._store.nearest(rig, stream, wanted_us, self._tolerance_us)
        if found is None:
            raise RefusedError(
                SIDE_INFORMATION_NOT_FOUND,
                f"stream {stream!r} of rig {rig!r} holds no frame within "
                f"{self._tolerance_us // 1000} ms of that capture time",
            )
        _check_size(found.image.shape[1], found.image.shape[0], width, height)
        use = SideInformationUse(
            outcome=types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED,
            stream=stream,
            capture_time=to_timestamp(found.capture_time_us),
            offset_us=found.capture_time_us - wanted_us,
        )
        return use, found.image

    # grpc.aio takes a coroutine that writes as well as a generator; a generator is not ended with its call.
    async def Subscribe(  # type: ignore[override]  # noqa: N802
        self, request: SubscribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """See the contract."""
        try:
            await self._subscribe(request, context)
        except RefusedError as error:
            await abort(context, error.reason, str(error))

    async def _subscribe(
        self, request: SubscribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        check_name("rig", request.rig)
        peer = self._authority.check(context, role="client", rig=request.rig)
        self._registry.check_accepting()
        cameras = frozenset(check_name("a camera", camera) for camera in request.cameras)
        image_format = answer_format(request.format)
        subscription = self._hub.subscribe(
            request.rig, cameras, side_information=request.include_side_information
        )
        try:
            await context.write(SubscribeResponse(subscribed=Subscribed()))
            while True:
                missed, picture = await subscription.next()
                peer.check_current()
                if missed:
                    await context.write(SubscribeResponse(missed=Missed(frames=missed)))
                if isinstance(picture, SidePicture):
                    held = HeldSideInformation(
                        rig=picture.rig,
                        stream=picture.stream,
                        capture_time=to_timestamp(picture.capture_time_us),
                        image=await picture.coded(self._workers),
                    )
                    await context.write(SubscribeResponse(side_information=held))
                    continue
                image = await picture.coded(image_format, self._workers)
                frame = _decoded_frame(picture, image, compressed=request.include_compressed)
                await context.write(SubscribeResponse(frame=frame))
        finally:
            self._hub.unsubscribe(subscription)


def _check_size(width: int, height: int, frame_width: int, frame_height: int) -> None:
    if (width, height) != (frame_width, frame_height):
        raise RefusedError(
            SIDE_INFORMATION_GEOMETRY,
            f"side information of {width}x{height} pixels does not fit a frame of "
            f"{frame_width}x{frame_height}; scale it to the frame's size",
        )


def _decoded_frame(picture: Picture, image: Image, *, compressed: bool) -> DecodedFrame:
    frame = DecodedFrame(
        rig=picture.rig,
        camera=picture.camera,
        session_id=picture.session_id,
        sequence=picture.sequence,
        capture_time=to_timestamp(picture.capture_time_us),
        image=image,
        side_information=picture.side_information,
        rate_level=picture.compressed.rate_level,
        payload_bytes=len(picture.compressed.payload),
        frame_bytes=picture.frame_bytes,
        decode_us=picture.decode_us,
        bundle_id=picture.bundle_id,
    )
    if compressed:
        source = picture.compressed
        frame.compressed.CopyFrom(
            types_pb2.CompressedFrame(
                bitstream_id=source.bitstream_id,
                rate_level=source.rate_level,
                payload=source.payload,
                geometry=types_pb2.Geometry(width=source.width, height=source.height),
            )
        )
    return frame
