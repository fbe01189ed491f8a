"""The node's end of the streams, message by message, for tests of a decoder server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import grpc
import grpc.aio

from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.frames import Frame
from ndsc.service.channel import open_channel
from ndsc.service.errors import describe
from ndsc.service.images import to_image
from ndsc.service.timestamps import to_timestamp
from ndsc.v1 import types_pb2
from ndsc.v1.catalog_pb2 import ListStreamsRequest, StreamInfo
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub
from ndsc.v1.frame_stream_pb2 import Frame as FrameMessage
from ndsc.v1.frame_stream_pb2 import Open, StreamFramesRequest, StreamFramesResponse
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceStub
from ndsc.v1.side_information_pb2 import (
    SideInformationFrame,
    SideInformationOpen,
    StreamSideInformationRequest,
    StreamSideInformationResponse,
)
from ndsc.v1.side_information_pb2_grpc import SideInformationServiceStub

EPOCH_US = 1_700_000_000_000_000
TIMEOUT_S = 10.0

RequestT = TypeVar("RequestT", StreamFramesRequest, StreamSideInformationRequest)
AnswerT = TypeVar("AnswerT", StreamFramesResponse, StreamSideInformationResponse)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str | None, str]:
    """(code, reason, message) with which a call, or a read of it, failed."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return describe(error)
    raise AssertionError("the call was not refused")


async def streams(address: str) -> dict[str, StreamInfo]:
    """The accounts of rig "rig", by camera."""
    async with open_channel(address) as channel:
        answer = await CatalogServiceStub(channel).ListStreams(
            ListStreamsRequest(rig="rig"), timeout=TIMEOUT_S
        )
    return {stream.camera: stream for stream in answer.streams}


async def until(address: str, condition: Callable[[dict[str, StreamInfo]], bool]) -> None:
    """Ask for the accounts again and again until they fulfil the condition."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition(await streams(address)):
            pass


class Node(Generic[RequestT, AnswerT]):
    """One call, read and written by hand. Heartbeats of the server are passed over unless asked for."""

    def __init__(self, channel: grpc.aio.Channel, call: Any) -> None:
        self._channel = channel
        self.call = call

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.call.cancel()
        await self._channel.close()

    async def read(self, *, heartbeats: bool = False) -> AnswerT:
        """The next answer. Raises AioRpcError when the server refuses, EOFError when it has closed."""
        while True:
            answer = await self.call.read()
            if answer is grpc.aio.EOF:
                raise EOFError
            if heartbeats or answer.WhichOneof("message") != "heartbeat":
                read: AnswerT = answer
                return read

    async def write(self, request: RequestT) -> None:
        await self.call.write(request)

    async def refusal(self) -> tuple[grpc.StatusCode, str | None]:
        """(code, reason) with which the server ends the call; answers before it are passed over."""
        while True:
            try:
                await self.read()
            except grpc.aio.AioRpcError as error:
                return describe(error)[:2]

    async def finish(self) -> list[AnswerT]:
        """Half-close, and read all that still comes until the server closes."""
        await self.call.done_writing()
        answers: list[AnswerT] = []
        while True:
            try:
                answers.append(await self.read())
            except EOFError:
                return answers


class CameraNode(Node[StreamFramesRequest, StreamFramesResponse]):
    """A StreamFrames call."""

    _offset_us = 0

    @classmethod
    def connect(cls, address: str) -> Self:
        channel = open_channel(address)
        stub = FrameStreamServiceStub(channel)
        return cls(channel, stub.StreamFrames(timeout=TIMEOUT_S))

    async def open(self, request: Open) -> StreamFramesResponse:
        await self.write(StreamFramesRequest(open=request))
        return await self.read()

    async def send(
        self, sequence: int, frame: CompressedFrame, *, offset_us: int | None = None, dropped_before: int = 0
    ) -> None:
        """Send a frame; its capture time is EPOCH_US + 100 ms a sequence number unless said otherwise."""
        offset_us = sequence * 100_000 if offset_us is None else offset_us
        delta_us, self._offset_us = offset_us - self._offset_us, offset_us
        message = FrameMessage(
            sequence=sequence,
            capture_delta_us=delta_us,
            rate_level=frame.rate_level,
            payload=frame.payload,
            dropped_before=dropped_before,
        )
        await self.write(StreamFramesRequest(frame=message))


class SideNode(Node[StreamSideInformationRequest, StreamSideInformationResponse]):
    """A StreamSideInformation call."""

    @classmethod
    def connect(cls, address: str) -> Self:
        channel = open_channel(address)
        stub = SideInformationServiceStub(channel)
        return cls(channel, stub.StreamSideInformation(timeout=TIMEOUT_S))

    async def open(self, request: SideInformationOpen) -> StreamSideInformationResponse:
        await self.write(StreamSideInformationRequest(open=request))
        return await self.read()

    async def send(self, sequence: int, image: Frame, capture_time_us: int) -> StreamSideInformationResponse:
        """Send a PNG and read the answer."""
        message = SideInformationFrame(
            sequence=sequence,
            capture_time=to_timestamp(capture_time_us),
            image=to_image(image, types_pb2.IMAGE_FORMAT_PNG),
        )
        await self.write(StreamSideInformationRequest(frame=message))
        return await self.read()


def camera_open(frame: CompressedFrame, **fields: Any) -> Open:
    """A legal `open` for frames like this one; `fields` replace its own."""
    legal: dict[str, Any] = {
        "rig": "rig",
        "camera": "left",
        "session_id": secrets.token_bytes(16),
        "bitstream_id": frame.bitstream_id,
        "delivery": types_pb2.DELIVERY_LIVE,
        "geometry": types_pb2.Geometry(width=frame.width, height=frame.height),
        "clock": types_pb2.CLOCK_SYNTHETIC,
        "capture_epoch": to_timestamp(EPOCH_US),
    }
    return Open(**(legal | fields))


def side_open(image: Frame, **fields: Any) -> SideInformationOpen:
    """A legal `open` for side information like this image; `fields` replace its own."""
    legal: dict[str, Any] = {
        "rig": "rig",
        "camera": "right",
        "session_id": secrets.token_bytes(16),
        "geometry": types_pb2.Geometry(width=image.shape[1], height=image.shape[0]),
        "clock": types_pb2.CLOCK_SYNTHETIC,
    }
    return SideInformationOpen(**(legal | fields))


def compressed_message(frame: CompressedFrame) -> types_pb2.CompressedFrame:
    return types_pb2.CompressedFrame(
        bitstream_id=frame.bitstream_id,
        rate_level=frame.rate_level,
        geometry=types_pb2.Geometry(width=frame.width, height=frame.height),
        payload=frame.payload,
    )
