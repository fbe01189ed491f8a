"""What the two roles of a node, camera and side information, do differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

import grpc.aio

from encoder_service.frames import CallKey, Coded, Numbered
from ndsc.sources import Source, SourceFrame
from ndsc.v1 import types_pb2
from ndsc.v1.frame_stream_pb2 import StreamFramesRequest, StreamFramesResponse
from ndsc.v1.side_information_pb2 import StreamSideInformationRequest, StreamSideInformationResponse
from ndsc.v1.types_pb2 import Clock

Request: TypeAlias = StreamFramesRequest | StreamSideInformationRequest
Response: TypeAlias = StreamFramesResponse | StreamSideInformationResponse
Call: TypeAlias = grpc.aio.StreamStreamCall[Any, Any]

DELIVERIES: Final = {"live": types_pb2.DELIVERY_LIVE, "archive": types_pb2.DELIVERY_ARCHIVE}
"""The setting `delivery` → what the wire says."""


class FrameMessages(Protocol):
    """Writes the frames of one call, each relative to the one before."""

    def request(self, frames: Sequence[Numbered]) -> Request:
        """Frames → one message, in order."""


class Role(Protocol):
    """What a node does with frames, and in which messages it sends them."""

    def call(self, channel: grpc.aio.Channel) -> Call:
        """A new call."""

    def heartbeat(self) -> Request:
        """What shows the decoder that the node is alive."""

    def begin(self, source: Source, clock: Clock) -> None:
        """Make ready for the frames of a source. Raises GeometryError for frames that cannot be coded."""

    @property
    def opening(self) -> bytes:
        """The constants under which frames coded now are sent; not before `begin`."""

    def session_constants(self, opening: bytes) -> bytes:
        """The part of an opening that may not change within a session."""

    @property
    def rate_levels(self) -> int:
        """Rate levels there are now, 0 the lowest."""

    @property
    def default_rate_level(self) -> int:
        """The level where none is asked for."""

    @property
    def frames_a_message(self) -> int:
        """Frames that may share one message."""

    def code(self, frame: SourceFrame, rate_level: int) -> Coded:
        """Code a frame. Blocks."""

    def open(self, key: CallKey, next_sequence: int, epoch_us: int) -> Request:
        """The first message of a call."""

    def messages(self, next_sequence: int, epoch_us: int) -> FrameMessages:
        """The writer of a call's frames."""
