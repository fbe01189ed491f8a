"""The node's end of the streams, message by message, for tests of a decoder server."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
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
from ndsc.v1.decode_pb2 import DecodedFrame, SubscribeRequest, SubscribeResponse
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub
from ndsc.v1.frame_stream_pb2 import Frame as FrameMessage
from ndsc.v1.frame_stream_pb2 import FrameBatch, Open, Opened, StreamFramesRequest, StreamFramesResponse
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceStub
from ndsc.v1.side_information_pb2 import (
    SideInformationFrame,
    SideInformationOpen,
    StreamSideInformationRequest,
    StreamSideInformationResponse,
)
from ndsc.v1.side_information_pb2_grpc import SideInformationServiceStub

EPOCH_US = 1_700_000_000_000_000
TIMEOUT_S = 20.0
RAW = types_pb2.IMAGE_FORMAT_RAW_RGB8
ARCHIVE = types_pb2.DELIVERY_ARCHIVE

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


def errors(answers: Sequence[StreamFramesResponse]) -> list[tuple[int, str]]:
    """(sequence, reason) of each error among the answers."""
    return [
        (answer.error.sequence, types_pb2.ErrorReason.Name(answer.error.reason).removeprefix("ERROR_REASON_"))
        for answer in answers
        if answer.WhichOneof("message") == "error"
    ]


def acks(answers: Sequence[StreamFramesResponse]) -> list[int]:
    """What each ack among the answers covers."""
    return [answer.ack.up_to_sequence for answer in answers if answer.WhichOneof("message") == "ack"]


def counts(stream: StreamInfo) -> dict[str, int]:
    """The part of an account that is not 0."""
    names = ("received", "decoded", "failed", "abandoned", "waiting", "dropped")
    return {name: getattr(stream, name) for name in names if getattr(stream, name)}


def events(history: Path, *names: str) -> list[dict[str, Any]]:
    """The events of these names in a history file."""
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    return [line for line in lines if line["event"] in names]


@asynccontextmanager
async def subscribed(address: str, **request: Any) -> AsyncIterator[Any]:
    """A Subscribe call that is in force."""
    async with open_channel(address) as channel:
        call: Any = DecodeServiceStub(channel).Subscribe(SubscribeRequest(**({"rig": "rig"} | request)))
        first = await call.read()
        assert first.WhichOneof("message") == "subscribed"
        yield call
        call.cancel()


async def picture_of(call: Any) -> DecodedFrame:
    """The next picture of a subscription."""
    answer: SubscribeResponse = await asyncio.wait_for(call.read(), TIMEOUT_S)
    assert answer.WhichOneof("message") == "frame"
    return answer.frame


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

    async def ack(self) -> int:
        """What the next answer, an ack, covers."""
        answer = await self.read()
        assert answer.WhichOneof("message") == "ack", answer
        return answer.ack.up_to_sequence

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

    async def resume(self, request: Open) -> Opened:
        """Open, and what the server says to it."""
        answer = await self.open(request)
        assert answer.WhichOneof("message") == "opened", answer
        return answer.opened

    async def send(
        self, sequence: int, frame: CompressedFrame, *, offset_us: int | None = None, dropped_before: int = 0
    ) -> None:
        """Send a frame; its capture time is EPOCH_US + 100 ms a sequence number unless said otherwise."""
        offset_us = sequence * 100_000 if offset_us is None else offset_us
        delta_us, self._offset_us = offset_us - self._offset_us, offset_us
        message = frame_message(sequence, frame, delta_us=delta_us, dropped_before=dropped_before)
        await self.write(StreamFramesRequest(frame=message))

    async def send_together(self, *frames: FrameMessage) -> None:
        """Send frames in one message."""
        await self.write(StreamFramesRequest(frames=FrameBatch(frames=frames)))


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


def frame_message(
    sequence: int, frame: CompressedFrame, *, delta_us: int = 100_000, dropped_before: int = 0
) -> FrameMessage:
    """A frame, `delta_us` after the one before."""
    return FrameMessage(
        sequence=sequence,
        capture_delta_us=delta_us,
        rate_level=frame.rate_level,
        payload=frame.payload,
        dropped_before=dropped_before,
    )


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
