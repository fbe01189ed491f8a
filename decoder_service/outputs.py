"""Where decoded pictures go: subscribers, and a folder."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path

from decoder_service.decoding import Workers
from decoder_service.metrics import DecoderMetrics
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.frames import Frame
from ndsc.service.errors import DRAINING, SESSION_LIMIT, RefusedError
from ndsc.service.images import frame_name, to_image, write_frame
from ndsc.v1 import types_pb2
from ndsc.v1.types_pb2 import Image, ImageFormat, SideInformationUse


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame of a camera session, decoded."""

    rig: str
    camera: str
    session_id: bytes
    sequence: int
    capture_time_us: int
    image: Frame
    side_information: SideInformationUse
    compressed: CompressedFrame
    frame_bytes: int
    """Size of the Frame message."""
    decode_us: int
    """From arrival to picture, the wait for side information included."""
    bundle_id: bytes
    _coded: dict[ImageFormat, asyncio.Task[Image]] = field(default_factory=dict)

    async def coded(self, image_format: ImageFormat, workers: Workers) -> Image:
        """The picture as a message; coded once, however many subscribers want it."""
        if image_format not in self._coded:
            self._coded[image_format] = asyncio.create_task(workers.run(to_image, self.image, image_format))
        # One subscriber that leaves must not take the others' picture along.
        return await asyncio.shield(self._coded[image_format])


@dataclass(frozen=True, eq=False)
class SidePicture:
    """A side-information frame that the server holds from now on."""

    rig: str
    stream: str
    capture_time_us: int
    image: Frame | Image
    """As it came; pixels from a source that the server reads itself."""
    _coded: list[asyncio.Task[Image]] = field(default_factory=list)

    async def coded(self, workers: Workers) -> Image:
        """The picture as a message: PNG where there are only pixels, coded once for all subscribers."""
        if isinstance(self.image, Image):
            return self.image
        if not self._coded:
            coding = workers.run(to_image, self.image, types_pb2.IMAGE_FORMAT_PNG)
            self._coded.append(asyncio.ensure_future(coding))
        return await asyncio.shield(self._coded[0])


class Subscription:
    """The pictures that wait for one subscriber. The newest are kept; what is missed is counted."""

    def __init__(
        self,
        rig: str,
        cameras: frozenset[str],
        capacity: int,
        metrics: DecoderMetrics,
        *,
        side_information: bool = False,
    ) -> None:
        self._metrics = metrics
        self._rig = rig
        self._cameras = cameras
        self._capacity = capacity
        self._side_information = side_information
        self._pictures: deque[Picture | SidePicture] = deque()
        self._missed = 0
        self._closed = False
        self._changed = asyncio.Event()

    def offer(self, picture: Picture | SidePicture) -> None:
        """Queue a picture if the subscriber follows its camera, or side information. Never waits."""
        if picture.rig != self._rig:
            return
        if isinstance(picture, SidePicture):
            if not self._side_information:
                return
        elif self._cameras and picture.camera not in self._cameras:
            return
        if len(self._pictures) >= self._capacity:
            self._pictures.popleft()
            self._missed += 1
            self._metrics.missed(1)
        self._pictures.append(picture)
        self._changed.set()

    async def next(self) -> tuple[int, Picture | SidePicture]:
        """(pictures missed just before it, picture). Raises RefusedError (DRAINING) after the last."""
        while not self._pictures:
            if self._closed:
                raise RefusedError(DRAINING, "the server is shutting down; subscribe again when it is up")
            self._changed.clear()
            await self._changed.wait()
        missed, self._missed = self._missed, 0
        return missed, self._pictures.popleft()

    def close(self) -> None:
        """Let the subscriber have what is queued, then end."""
        self._closed = True
        self._changed.set()


class Hub:
    """Hands every picture to all who follow its camera."""

    def __init__(self, *, capacity_frames: int, max_subscribers: int, metrics: DecoderMetrics) -> None:
        self._capacity_frames = capacity_frames
        self._metrics = metrics
        self._max_subscribers = max_subscribers
        self._subscriptions: set[Subscription] = set()
        self._empty = asyncio.Event()

    @property
    def subscribers(self) -> int:
        """How many follow."""
        return len(self._subscriptions)

    def subscribe(self, rig: str, cameras: frozenset[str], *, side_information: bool = False) -> Subscription:
        """Follow some cameras of a rig, or all when none is named; and its side information when asked to.

        Raises RefusedError (SESSION_LIMIT).
        """
        if len(self._subscriptions) >= self._max_subscribers:
            raise RefusedError(
                SESSION_LIMIT, f"{self._max_subscribers} subscribers are all this server takes"
            )
        subscription = Subscription(
            rig, cameras, self._capacity_frames, self._metrics, side_information=side_information
        )
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Follow no more."""
        self._subscriptions.discard(subscription)
        if not self._subscriptions:
            self._empty.set()

    def publish(self, picture: Picture | SidePicture) -> None:
        """Offer a picture to all subscribers. Never waits."""
        for subscription in self._subscriptions:
            subscription.offer(picture)

    def close(self) -> None:
        """End all subscriptions once they have what is queued."""
        for subscription in self._subscriptions:
            subscription.close()

    async def drain(self) -> None:
        """`close`, and wait until all subscribers have left."""
        self.close()
        if self._subscriptions:
            self._empty.clear()
            await self._empty.wait()


class FolderWriter:
    """Writes pictures as FOLDER/RIG/CAMERA/SESSION/SEQUENCE.png; a frame decoded again gives the same file.

    A frame is acknowledged after it is written, so a slow disk takes credit from its camera instead of losing
    frames in silence.
    """

    def __init__(self, folder: Path, workers: Workers) -> None:
        self._folder = folder
        self._workers = workers

    def write(self, picture: Picture) -> Awaitable[None]:
        """Write one picture. Raises OutputError."""
        return self._workers.run(self._write, picture)

    def _write(self, picture: Picture) -> None:
        name = frame_name(picture.rig, picture.camera, picture.session_id, picture.sequence)
        write_frame(self._folder / name, picture.image)
