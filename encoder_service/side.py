"""The role of a side-information camera: frames go to the decoder as JPEG, PNG or raw pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc.aio

from encoder_service.frames import CallKey, Coded, Numbered
from encoder_service.role import DELIVERIES, Call
from encoder_service.settings import EncoderSettings
from ndsc.service.images import to_image
from ndsc.service.timestamps import to_timestamp
from ndsc.sources import Source, SourceFrame
from ndsc.v1 import types_pb2
from ndsc.v1.side_information_pb2 import (
    SideInformationFrame,
    SideInformationOpen,
    StreamSideInformationRequest,
)
from ndsc.v1.side_information_pb2_grpc import SideInformationServiceStub
from ndsc.v1.types_pb2 import Clock, Geometry, Heartbeat, Image

_FORMATS: Final = {
    "jpeg": types_pb2.IMAGE_FORMAT_JPEG,
    "png": types_pb2.IMAGE_FORMAT_PNG,
    "raw": types_pb2.IMAGE_FORMAT_RAW_RGB8,
}


class SideInformationRole:
    """Sends frames as they were captured; needs no bundle."""

    def __init__(self, settings: EncoderSettings) -> None:
        self._settings = settings
        self._format = _FORMATS[settings.side_format]
        self._constants: bytes | None = None

    def call(self, channel: grpc.aio.Channel) -> Call:
        """A new StreamSideInformation call."""
        return SideInformationServiceStub(channel).StreamSideInformation()

    def heartbeat(self) -> StreamSideInformationRequest:
        """What shows the decoder that the node is alive."""
        return StreamSideInformationRequest(heartbeat=Heartbeat())

    def begin(self, source: Source, clock: Clock) -> None:
        """Make ready for the frames of a source."""
        settings = self._settings
        self._constants = SideInformationOpen(
            rig=settings.rig,
            camera=settings.camera,
            geometry=Geometry(width=source.width, height=source.height),
            clock=clock,
            frame_id=settings.frame_id,
            delivery=DELIVERIES[settings.delivery],
        ).SerializeToString(deterministic=True)

    @property
    def opening(self) -> bytes:
        """The stream's constants."""
        if self._constants is None:
            raise RuntimeError("the role has not begun")
        return self._constants

    def session_constants(self, opening: bytes) -> bytes:
        """All of it."""
        return opening

    @property
    def rate_levels(self) -> int:
        """One: images are sent as they are."""
        return 1

    @property
    def default_rate_level(self) -> int:
        """The only one."""
        return 0

    @property
    def frames_a_message(self) -> int:
        """Images are large."""
        return 1

    def code(self, frame: SourceFrame, rate_level: int) -> Coded:
        """Code a frame as an image. Blocks."""
        image = to_image(frame.image, self._format)
        return Coded(self.opening, frame.capture_time_us, 0, image.SerializeToString())

    def open(self, key: CallKey, next_sequence: int, epoch_us: int) -> StreamSideInformationRequest:
        """The first message of a call."""
        message = SideInformationOpen.FromString(key.opening)
        message.session_id = key.session_id
        message.next_sequence = next_sequence
        return StreamSideInformationRequest(open=message)

    def messages(self, next_sequence: int, epoch_us: int) -> SideInformationMessages:
        """The writer of a call's frames."""
        return SideInformationMessages()


class SideInformationMessages:
    """Writes SideInformationFrame messages."""

    def request(self, frames: Sequence[Numbered]) -> StreamSideInformationRequest:
        """One frame → one message: images are too large to share one."""
        (frame,) = frames
        return StreamSideInformationRequest(
            frame=SideInformationFrame(
                sequence=frame.sequence,
                capture_time=to_timestamp(frame.capture_time_us),
                image=Image.FromString(frame.data),
                dropped_before=frame.dropped_before,
            )
        )
