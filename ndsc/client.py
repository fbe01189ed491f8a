"""The Python client of a decoder server.

with ndsc.Client("localhost:50051") as client:
    picture = client.decode(frame, side_information=y).image
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Literal, Self

import grpc
import numpy as np

from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.frames import Frame, check_frame
from ndsc.service.channel import open_blocking_channel, rig_metadata
from ndsc.service.diagnosis import diagnose
from ndsc.service.errors import ServiceError, UnreachableError, service_error, unreachable
from ndsc.service.images import from_image, to_image
from ndsc.service.timestamps import from_timestamp, to_timestamp
from ndsc.service.tls import certificate_files, load_certificates
from ndsc.service.watched import KeyFileError
from ndsc.v1 import catalog_pb2, decode_pb2, types_pb2
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub

__all__ = [
    "BundleInfo",
    "Client",
    "Decoded",
    "KeyFileError",
    "ServiceError",
    "SideInformationUse",
    "SideReference",
    "StreamInfo",
    "SubscribedFrame",
    "Subscription",
    "UnreachableError",
]

Outcome = Literal["paired", "absent", "not_requested", "inline", "unspecified"]


@dataclass(frozen=True)
class SideReference:
    """Names a side-information frame that the server holds: the nearest to a time in a stream."""

    rig: str
    stream: str
    capture_time_us: int
    """Microseconds since the Unix epoch."""


@dataclass(frozen=True)
class SideInformationUse:
    """Which side information a frame was decoded with."""

    outcome: Outcome
    """`paired` with a held frame, `inline` from the caller, `absent` or `not_requested`."""
    stream: str | None = None
    """The stream that served, when paired."""
    capture_time_us: int | None = None
    """Capture time of the frame that served, when paired."""
    offset_us: int | None = None
    """That time minus the decoded frame's, when paired."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """The answer to one compressed frame."""

    image: Frame
    """uint8 RGB [height, width, 3]."""
    side_information: SideInformationUse
    bundle_id: str
    """Hexadecimal; names every byte of the bundle that decoded."""


@dataclass(frozen=True, eq=False)
class SubscribedFrame:
    """A frame of a camera session, decoded."""

    rig: str
    camera: str
    session_id: bytes
    sequence: int
    capture_time_us: int
    image: Frame
    """uint8 RGB [height, width, 3]."""
    side_information: SideInformationUse
    rate_level: int
    payload_bytes: int
    frame_bytes: int
    """Size of the message that carried the payload from the camera node."""
    decode_us: int
    """From arrival at the server to picture, the wait for side information included."""
    bundle_id: str
    compressed: CompressedFrame | None
    """When asked for."""
    missed: int
    """Pictures just before this one that this subscriber was too slow to get."""


@dataclass(frozen=True)
class BundleInfo:
    """A bundle that the server has loaded."""

    name: str
    bundle_id: str
    bitstream_id: bytes
    rate_levels: int
    max_side: int
    max_pixels: int
    provider: str
    """Where its decoder runs: "cpu" or "cuda"."""


@dataclass(frozen=True)
class StreamInfo:
    """A stream that is open or was, and what became of its frames."""

    kind: Literal["camera", "side_information"]
    rig: str
    camera: str
    session_id: bytes
    width: int
    height: int
    open: bool
    received: int
    decoded: int
    """Decoded (camera) or held at some time (side information)."""
    failed: int
    dropped: int
    received_bytes: int
    last_capture_time_us: int | None


class Client:
    """Talks to one decoder server; may be shared between threads.

    Every method raises UnreachableError when no server answers at the address, and ServiceError, with its
    `reason` and whether to try again, when the server refuses.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 10.0,
        tls_ca: str | Path | None = None,
        tls_certificate: str | Path | None = None,
        tls_key: str | Path | None = None,
        token: str | None = None,
        tls_server_name: str | None = None,
        rig: str | None = None,
    ) -> None:
        """Connect to "host:port" with the first call; `timeout_s` is the deadline of each single call.

        With `tls_ca`, certificates (PEM) of the authorities that the server is checked by, the connection is
        encrypted; who calls is then shown by `tls_certificate` and `tls_key` (PEM), or by a bearer token at
        the server's address for clients. Raises KeyFileError when these cannot be used.

        Behind a proxy, calls that name a rig reach the decoder of that rig, and others that of `rig`; where the
        proxy does not read TLS, it goes by `tls_server_name` alone, which is also the name that the server's
        certificate must be for: the host of `address` without.
        """
        self._address = address
        self._timeout_s = timeout_s
        self._files = certificate_files(tls_ca, tls_certificate, tls_key)
        certificates = None
        if self._files is not None:
            certificates = load_certificates(self._files)
            certificates.check_dates()
        self._name = tls_server_name
        self._rig = rig
        self._channel = open_blocking_channel(address, certificates, token, name=tls_server_name)
        self._decode = DecodeServiceStub(self._channel)
        self._catalog = CatalogServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; running subscriptions end with an error."""
        self._channel.close()

    def decode(
        self, frame: CompressedFrame, side_information: Frame | SideReference | None = None
    ) -> Decoded:
        """Decode one compressed frame with y uint8 [height, width, 3], y held by the server, or without.

        Raises GeometryError when y is no frame.
        """
        request = decode_pb2.DecodeRequest(frame=_to_message(frame), format=types_pb2.IMAGE_FORMAT_PNG)
        rig = self._rig
        if isinstance(side_information, SideReference):
            rig = side_information.rig
            request.side_reference.CopyFrom(
                types_pb2.SideInformationReference(
                    rig=side_information.rig,
                    stream=side_information.stream,
                    capture_time=to_timestamp(side_information.capture_time_us),
                )
            )
        elif side_information is not None:
            y = check_frame(side_information, "side information")
            request.side_image.CopyFrom(to_image(y, types_pb2.IMAGE_FORMAT_PNG))
        try:
            answer = self._decode.Decode(request, timeout=self._timeout_s, metadata=rig_metadata(rig))
        except grpc.RpcError as error:
            raise self._error(error) from error
        return Decoded(_picture(answer.image), _use(answer.side_information), answer.bundle_id.hex())

    def subscribe(
        self,
        rig: str,
        cameras: Sequence[str] = (),
        *,
        include_compressed: bool = False,
        include_side_information: bool = False,
        image_format: Literal["png", "jpeg"] = "png",
    ) -> Subscription:
        """Follow the decoded frames of some cameras of a rig, or of all when none is named.

        Returns once the server has the subscription: frames it decodes from then on come out of the iterator,
        in order, until the server ends (ServiceError) or the subscription is closed. Side information, when it
        is included, comes out of `Subscription.messages`.
        """
        request = decode_pb2.SubscribeRequest(
            rig=rig,
            cameras=cameras,
            format=_FORMATS[image_format],
            include_compressed=include_compressed,
            include_side_information=include_side_information,
        )
        call = self._decode.Subscribe(request, wait_for_ready=False, metadata=rig_metadata(rig))
        try:
            # The server's first message says that the subscription is in force.
            first = next(iter(call))
        except grpc.RpcError as error:
            raise self._error(error) from error
        if first.WhichOneof("message") != "subscribed":
            call.cancel()
            raise ServiceError(
                f"{self._address} did not confirm the subscription", reason="UNKNOWN", retryable=False
            )
        return Subscription(call, self._address)

    def bundles(self) -> list[BundleInfo]:
        """The bundles that the server has loaded."""
        try:
            answer = self._catalog.ListBundles(
                catalog_pb2.ListBundlesRequest(), timeout=self._timeout_s, metadata=rig_metadata(self._rig)
            )
        except grpc.RpcError as error:
            raise self._error(error) from error
        return [
            BundleInfo(
                name=bundle.name,
                bundle_id=bundle.bundle_id.hex(),
                bitstream_id=bundle.bitstream_id,
                rate_levels=bundle.rate_levels,
                max_side=bundle.max_side,
                max_pixels=bundle.max_pixels,
                provider=bundle.provider,
            )
            for bundle in answer.bundles
        ]

    def streams(self, rig: str = "") -> list[StreamInfo]:
        """The streams of a rig, or all of one server, that are open or were."""
        request = catalog_pb2.ListStreamsRequest(rig=rig)
        try:
            answer = self._catalog.ListStreams(
                request, timeout=self._timeout_s, metadata=rig_metadata(rig or self._rig)
            )
        except grpc.RpcError as error:
            raise self._error(error) from error
        return [_stream_info(stream) for stream in answer.streams]

    def _error(self, error: grpc.RpcError) -> ServiceError:
        """What a failed call is told as; blocks to find out why the server cannot be reached, if it cannot."""
        told = service_error(error, self._address)
        if isinstance(told, UnreachableError):
            return unreachable(self._address, diagnose(self._address, self._files, name=self._name))
        return told


class Subscription:
    """Decoded frames as they come: iterate, and close it (or use it in a `with`) when enough have come."""

    def __init__(self, call: grpc._CallIterator[decode_pb2.SubscribeResponse], address: str) -> None:
        self._call = call
        self._address = address
        self._closed = Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription, from any thread; an iteration that waits for the next frame ends."""
        self._closed.set()
        self._call.cancel()

    def __iter__(self) -> Iterator[SubscribedFrame]:
        return self

    def messages(self) -> Iterator[decode_pb2.SubscribeResponse]:
        """What comes, as it comes, side information included. Raises ServiceError when the server ends it."""
        while not self._closed.is_set():
            try:
                yield next(self._call)
            except StopIteration:
                return
            except grpc.RpcError as error:
                if self._closed.is_set():
                    return
                raise service_error(error, self._address) from error

    def __next__(self) -> SubscribedFrame:
        """The next frame. Raises ServiceError when the server ends the subscription."""
        missed = 0
        for message in self.messages():
            if message.WhichOneof("message") == "missed":
                missed += message.missed.frames
            elif message.WhichOneof("message") == "frame":
                return _subscribed_frame(message.frame, missed)
        raise StopIteration


def _to_message(frame: CompressedFrame) -> types_pb2.CompressedFrame:
    return types_pb2.CompressedFrame(
        bitstream_id=frame.bitstream_id,
        rate_level=frame.rate_level,
        geometry=types_pb2.Geometry(width=frame.width, height=frame.height),
        payload=frame.payload,
    )


def _from_message(message: types_pb2.CompressedFrame) -> CompressedFrame:
    return CompressedFrame(
        message.bitstream_id,
        message.rate_level,
        message.geometry.width,
        message.geometry.height,
        message.payload,
    )


def _picture(image: types_pb2.Image) -> Frame:
    return np.ascontiguousarray(from_image(image, max_pixels=max(1, image.width * image.height)))


_FORMATS: dict[str, types_pb2.ImageFormat] = {
    "png": types_pb2.IMAGE_FORMAT_PNG,
    "jpeg": types_pb2.IMAGE_FORMAT_JPEG,
}

_OUTCOMES: dict[types_pb2.SideInformationOutcome, Outcome] = {
    types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED: "paired",
    types_pb2.SIDE_INFORMATION_OUTCOME_ABSENT: "absent",
    types_pb2.SIDE_INFORMATION_OUTCOME_NOT_REQUESTED: "not_requested",
    types_pb2.SIDE_INFORMATION_OUTCOME_INLINE: "inline",
}


def _use(use: types_pb2.SideInformationUse) -> SideInformationUse:
    outcome = _OUTCOMES.get(use.outcome, "unspecified")
    if outcome != "paired":
        return SideInformationUse(outcome)
    return SideInformationUse(outcome, use.stream, from_timestamp(use.capture_time), use.offset_us)


def _subscribed_frame(frame: decode_pb2.DecodedFrame, missed: int) -> SubscribedFrame:
    return SubscribedFrame(
        rig=frame.rig,
        camera=frame.camera,
        session_id=frame.session_id,
        sequence=frame.sequence,
        capture_time_us=from_timestamp(frame.capture_time),
        image=_picture(frame.image),
        side_information=_use(frame.side_information),
        rate_level=frame.rate_level,
        payload_bytes=frame.payload_bytes,
        frame_bytes=frame.frame_bytes,
        decode_us=frame.decode_us,
        bundle_id=frame.bundle_id.hex(),
        compressed=_from_message(frame.compressed) if frame.HasField("compressed") else None,
        missed=missed,
    )


def _stream_info(stream: catalog_pb2.StreamInfo) -> StreamInfo:
    camera = stream.kind == catalog_pb2.STREAM_KIND_CAMERA
    return StreamInfo(
        kind="camera" if camera else "side_information",
        rig=stream.rig,
        camera=stream.camera,
        session_id=stream.session_id,
        width=stream.geometry.width,
        height=stream.geometry.height,
        open=stream.open,
        received=stream.received,
        decoded=stream.decoded,
        failed=stream.failed,
        dropped=stream.dropped,
        received_bytes=stream.received_bytes,
        last_capture_time_us=(
            from_timestamp(stream.last_capture_time) if stream.HasField("last_capture_time") else None
        ),
    )
