"""The role of a side-information camera: frames go to the decoder as JPEG, PNG or raw pixels."""

from __future__ import annotations

from typing import Final

import grpc.aio

from encoder_service.node import Prepared
from encoder_service.settings import EncoderSettings
from encoder_service.uplink import Call
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
from ndsc.v1.types_pb2 import Clock, Geometry, Heartbeat

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

    def call(self, channel: grpc.aio.Channel) -> Call:
        """A new StreamSideInformation call."""
        return SideInformationServiceStub(channel).StreamSideInformation()

    def heartbeat(self) -> StreamSideInformationRequest:
        """What shows the decoder that the node is alive."""
        return StreamSideInformationRequest(heartbeat=Heartbeat())

    def open(self, source: Source, session_id: bytes, clock: Clock) -> StreamSideInformationRequest:
        """The stream's first message."""
        settings = self._settings
        return StreamSideInformationRequest(
            open=SideInformationOpen(
                rig=settings.rig,
                camera=settings.camera,
                session_id=session_id,
                geometry=Geometry(width=source.width, height=source.height),
                clock=clock,
                frame_id=settings.frame_id,
            )
        )

    def prepare(self, frame: SourceFrame, sequence: int, dropped_before: int) -> Prepared:
        """Code a frame as an image. Blocks."""
        image = to_image(frame.image, self._format)
        message = SideInformationFrame(
            sequence=sequence,
            capture_time=to_timestamp(frame.capture_time_us),
            image=image,
            dropped_before=dropped_before,
        )
        return Prepared(StreamSideInformationRequest(frame=message), len(image.data), message.ByteSize())
