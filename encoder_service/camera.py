"""The role of a camera: every frame is compressed and sent in a `StreamFrames` session."""

from __future__ import annotations

import grpc.aio

from encoder_service.node import Prepared
from encoder_service.settings import EncoderSettings
from encoder_service.uplink import Call
from ndsc.codec.bundle import Bundle, default_bundle_path
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.runtime import RuntimeOptions
from ndsc.service.timestamps import to_timestamp
from ndsc.sources import Source, SourceFrame
from ndsc.v1 import types_pb2
from ndsc.v1.frame_stream_pb2 import Frame, Open, StreamFramesRequest
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceStub
from ndsc.v1.types_pb2 import Clock, Geometry, Heartbeat


class CameraRole:
    """Compresses frames with the bundle's encoder, seeing nothing but the frame.

    Loads the bundle and warms it up: make it off the event loop. Raises BundleError, ProviderError and
    RateLevelError.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        bundle = Bundle.load(settings.bundle or default_bundle_path())
        self._settings = settings
        self._level = bundle.default_rate_level if settings.rate_level is None else settings.rate_level
        bundle.stages_sent(self._level)
        self._encoder = FrameEncoder(bundle, RuntimeOptions(settings.provider, settings.threads))
        self._encoder.warm_up()
        self._epoch_us = 0

    def call(self, channel: grpc.aio.Channel) -> Call:
        """A new StreamFrames call."""
        return FrameStreamServiceStub(channel).StreamFrames()

    def heartbeat(self) -> StreamFramesRequest:
        """What shows the decoder that the node is alive."""
        return StreamFramesRequest(heartbeat=Heartbeat())

    def open(self, source: Source, session_id: bytes, clock: Clock) -> StreamFramesRequest:
        """The session's first message. Raises GeometryError for frames that the bundle cannot code."""
        settings, bundle = self._settings, self._encoder.bundle
        bundle.geometry.check(source.width, source.height)
        self._epoch_us = source.epoch_us
        return StreamFramesRequest(
            open=Open(
                rig=settings.rig,
                camera=settings.camera,
                session_id=session_id,
                bitstream_id=bundle.bitstream_id,
                delivery=types_pb2.DELIVERY_LIVE,
                geometry=Geometry(width=source.width, height=source.height),
                clock=clock,
                frame_id=settings.frame_id,
                side_information_streams=settings.side_information,
                capture_epoch=to_timestamp(source.epoch_us),
            )
        )

    def prepare(self, frame: SourceFrame, sequence: int, dropped_before: int) -> Prepared:
        """Compress a frame. Blocks."""
        compressed = self._encoder.encode(frame.image, self._level)
        message = Frame(
            sequence=sequence,
            capture_offset_us=frame.capture_time_us - self._epoch_us,
            rate_level=self._level,
            payload=compressed.payload,
            dropped_before=dropped_before,
        )
        return Prepared(StreamFramesRequest(frame=message), len(compressed.payload), message.ByteSize())
