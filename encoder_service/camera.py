"""The role of a camera: every frame is compressed and sent in a `StreamFrames` session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc.aio

from encoder_service.frames import CallKey, Coded, Numbered
from encoder_service.role import DELIVERIES, Call
from encoder_service.settings import EncoderSettings
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.runtime import RuntimeOptions
from ndsc.service.timestamps import to_timestamp
from ndsc.sources import Source, SourceFrame
from ndsc.v1.frame_stream_pb2 import Frame, FrameBatch, Open, StreamFramesRequest
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceStub
from ndsc.v1.types_pb2 import Clock, Geometry, Heartbeat

_FRAMES_A_MESSAGE: Final = 32


class CameraRole:
    """Compresses frames with a bundle's encoder, seeing nothing but the frame.

    Makes an onnxruntime session and warms it up: make it off the event loop. Raises BundleError, ProviderError
    and RateLevelError.
    """

    def __init__(self, settings: EncoderSettings, bundle: Bundle) -> None:
        self._settings = settings
        self._encoder = self._load(bundle)
        self._constants: Open | None = None

    @property
    def bundle(self) -> Bundle:
        """The bundle that frames are coded with."""
        return self._encoder.bundle

    @property
    def rate_levels(self) -> int:
        """Rate levels of that bundle."""
        return self.bundle.rate_level_count

    @property
    def default_rate_level(self) -> int:
        """The middle level of that bundle."""
        return self.bundle.default_rate_level

    @property
    def frames_a_message(self) -> int:
        """Payloads are small."""
        return _FRAMES_A_MESSAGE

    def change_bundle(self, bundle: Bundle) -> None:
        """Code with another bundle from the next frame on. Blocks while it loads.

        Raises as when made, and GeometryError when it cannot code the source's frames; the one before then stays.
        """
        encoder = self._load(bundle)
        if self._constants is not None:
            bundle.geometry.check(self._constants.geometry.width, self._constants.geometry.height)
        self._encoder = encoder

    def _load(self, bundle: Bundle) -> FrameEncoder:
        if self._settings.rate_level is not None:
            bundle.stages_sent(self._settings.rate_level)
        encoder = FrameEncoder(bundle, RuntimeOptions(self._settings.provider, self._settings.threads))
        encoder.warm_up()
        return encoder

    def call(self, channel: grpc.aio.Channel) -> Call:
        """A new StreamFrames call."""
        return FrameStreamServiceStub(channel).StreamFrames()

    def heartbeat(self) -> StreamFramesRequest:
        """What shows the decoder that the node is alive."""
        return StreamFramesRequest(heartbeat=Heartbeat())

    def begin(self, source: Source, clock: Clock) -> None:
        """Make ready for the frames of a source. Raises GeometryError for frames that the bundle cannot code."""
        settings = self._settings
        self.bundle.geometry.check(source.width, source.height)
        self._constants = Open(
            rig=settings.rig,
            camera=settings.camera,
            delivery=DELIVERIES[settings.delivery],
            geometry=Geometry(width=source.width, height=source.height),
            clock=clock,
            frame_id=settings.frame_id,
            side_information_streams=settings.side_information,
        )

    @property
    def opening(self) -> bytes:
        """The session's constants, with the bitstream of now."""
        return self._opening(self._encoder)

    def _opening(self, encoder: FrameEncoder) -> bytes:
        if self._constants is None:
            raise RuntimeError("the role has not begun")
        message = Open(bitstream_id=encoder.bundle.bitstream_id)
        message.MergeFrom(self._constants)
        return message.SerializeToString(deterministic=True)

    def session_constants(self, opening: bytes) -> bytes:
        """All but the bitstream, which may be another one in each call."""
        message = Open.FromString(opening)
        message.ClearField("bitstream_id")
        return message.SerializeToString(deterministic=True)

    def code(self, frame: SourceFrame, rate_level: int) -> Coded:
        """Compress a frame. Blocks."""
        encoder = self._encoder  # one look: the bundle may change meanwhile
        level = min(rate_level, encoder.bundle.rate_level_count - 1)  # or have changed since it was chosen
        compressed = encoder.encode(frame.image, level)
        return Coded(self._opening(encoder), frame.capture_time_us, level, compressed.payload)

    def open(self, key: CallKey, next_sequence: int, epoch_us: int) -> StreamFramesRequest:
        """The first message of a call."""
        message = Open.FromString(key.opening)
        message.session_id = key.session_id
        message.next_sequence = next_sequence
        message.capture_epoch.CopyFrom(to_timestamp(epoch_us))
        return StreamFramesRequest(open=message)

    def messages(self, next_sequence: int, epoch_us: int) -> CameraMessages:
        """The writer of a call's frames."""
        return CameraMessages(next_sequence, epoch_us)


class CameraMessages:
    """Writes Frame messages: what follows from the frame before is left out."""

    def __init__(self, next_sequence: int, epoch_us: int) -> None:
        self._expected = next_sequence
        self._time_us = epoch_us

    def request(self, frames: Sequence[Numbered]) -> StreamFramesRequest:
        """Frames → one message, in order."""
        messages = [self._frame(frame) for frame in frames]
        if len(messages) == 1:
            return StreamFramesRequest(frame=messages[0])
        return StreamFramesRequest(frames=FrameBatch(frames=messages))

    def _frame(self, frame: Numbered) -> Frame:
        message = Frame(
            sequence=0 if frame.sequence == self._expected else frame.sequence,
            capture_delta_us=frame.capture_time_us - self._time_us,
            rate_level=frame.rate_level,
            payload=frame.data,
            dropped_before=frame.dropped_before,
        )
        self._expected = frame.sequence + 1
        self._time_us = frame.capture_time_us
        return message
