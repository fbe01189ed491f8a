"""From a compressed frame of a camera session to its picture: unpack, pair, decode, write.

Live frames and stored ones go the same way. They differ in how long they wait for side information, and stored
ones find it on disk too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from decoder_service.archive import AsyncArchive
from decoder_service.decoding import Decoders, Workers
from decoder_service.metrics import DecoderMetrics
from decoder_service.outputs import FolderWriter, Picture
from decoder_service.side_information import SideFrame, SideInformationStore
from decoder_service.streams import StreamKey
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.errors import OutputError
from ndsc.codec.frames import Frame
from ndsc.service.images import from_image
from ndsc.service.timestamps import to_timestamp
from ndsc.v1 import types_pb2
from ndsc.v1.types_pb2 import Image, ImageFormat, SideInformationUse


@dataclass(frozen=True)
class PairingTerms:
    """How near side information must be, and how long it is waited for."""

    tolerance_us: int
    wait_s: float
    """Of a live frame, from its arrival."""
    stored_wait_s: float
    """Of a stored frame, from its arrival or the server's start."""


@dataclass(frozen=True)
class Job:
    """A compressed frame that is to become a picture."""

    key: StreamKey
    session_id: bytes
    sequence: int
    capture_time_us: int
    compressed: CompressedFrame
    frame_bytes: int
    """Size of the Frame message."""
    streams: tuple[str, ...]
    """Cameras whose frames may serve as side information, best first."""
    arrived: float
    """Event loop time."""
    deadline: float
    """Event loop time after which side information is not waited for."""
    stored: bool
    """Delivery ARCHIVE: side information is looked for on disk too."""
    warn: Callable[..., None]
    """Logs a warning of the session, not too often."""


class PictureMaker:
    """Makes pictures, from many sessions at once."""

    def __init__(
        self,
        *,
        store: SideInformationStore,
        archive: AsyncArchive | None,
        decoders: Decoders,
        workers: Workers,
        writer: FolderWriter | None,
        tolerance_us: int,
        metrics: DecoderMetrics,
    ) -> None:
        self._store = store
        self._archive = archive
        self._decoders = decoders
        self._workers = workers
        self._writer = writer
        self._tolerance_us = tolerance_us
        self._metrics = metrics

    async def make(self, job: Job) -> Picture:
        """Unpack, pair, decode, and write if there is a folder. Raises NdscError for a frame that cannot be."""
        # Refused before any work when no message could carry it.
        to_timestamp(job.capture_time_us)
        decoder = self._decoders.find(job.compressed.bitstream_id)
        with self._metrics.stage("unpack"):
            indices = await self._workers.run(decoder.unpack, job.compressed)
        with self._metrics.stage("pair"):
            use, side = await self._pair(job)
        self._metrics.paired(job.key, use)
        image = await self._decoders.decode(decoder, indices, side)
        picture = Picture(
            rig=job.key.rig,
            camera=job.key.camera,
            session_id=job.session_id,
            sequence=job.sequence,
            capture_time_us=job.capture_time_us,
            image=image,
            side_information=use,
            compressed=job.compressed,
            frame_bytes=job.frame_bytes,
            decode_us=round((asyncio.get_running_loop().time() - job.arrived) * 1_000_000),
            bundle_id=bytes.fromhex(decoder.bundle.bundle_id),
        )
        if self._writer is not None:
            try:
                with self._metrics.stage("write"):
                    await self._writer.write(picture)
            except (OutputError, OSError) as error:
                job.warn("picture not written", sequence=job.sequence, error=str(error))
        return picture

    async def _pair(self, job: Job) -> tuple[SideInformationUse, Frame | None]:
        if not job.streams:
            return SideInformationUse(outcome=types_pb2.SIDE_INFORMATION_OUTCOME_NOT_REQUESTED), None
        size = (job.compressed.width, job.compressed.height)
        if job.stored and self._archive is not None:
            found = await self._pair_stored(self._archive, job, size)
        else:
            found = await self._pair_live(job, size)
        if found is None:
            return SideInformationUse(outcome=types_pb2.SIDE_INFORMATION_OUTCOME_ABSENT), None
        stream, frame = found
        use = SideInformationUse(
            outcome=types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED,
            stream=stream,
            capture_time=to_timestamp(frame.capture_time_us),
            offset_us=frame.capture_time_us - job.capture_time_us,
        )
        return use, frame.image

    async def _pair_live(self, job: Job, size: tuple[int, int]) -> tuple[str, SideFrame] | None:
        pairing = await self._store.pair(
            job.key.rig,
            job.streams,
            job.capture_time_us,
            size=size,
            tolerance_us=self._tolerance_us,
            deadline=job.deadline,
        )
        if pairing.paired is not None:
            return pairing.paired.stream, pairing.paired.frame
        if pairing.other_size is not None:
            stream, width, height = pairing.other_size
            job.warn(
                "side information of another size is not used",
                stream=stream,
                width=width,
                height=height,
                frame_width=size[0],
                frame_height=size[1],
            )
        return None

    async def _pair_stored(
        self, archive: AsyncArchive, job: Job, size: tuple[int, int]
    ) -> tuple[str, SideFrame] | None:
        """As `SideInformationStore.pair`, over what is held and what is on disk.

        A stream that is behind is waited for until the deadline, every time: its node may hold what this frame
        needs in a spool of its own.
        """
        while True:
            changed = self._store.changed()
            expired = asyncio.get_running_loop().time() >= job.deadline
            for stream in job.streams:
                if not expired and await self._behind(archive, job, stream):
                    break
                frame = await self._nearest(archive, job, stream, size)
                if frame is not None:
                    return stream, frame
            else:
                return None
            try:
                async with asyncio.timeout_at(job.deadline):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _behind(self, archive: AsyncArchive, job: Job, stream: str) -> bool:
        newest_us = self._store.newest_time_us(job.key.rig, stream)
        if newest_us is None or newest_us < job.capture_time_us:
            newest_us = await archive.newest_side_time(job.key.rig, stream)
        return newest_us is None or newest_us < job.capture_time_us

    async def _nearest(
        self, archive: AsyncArchive, job: Job, stream: str, size: tuple[int, int]
    ) -> SideFrame | None:
        width, height = size
        wanted_us = job.capture_time_us
        held = self._store.nearest(job.key.rig, stream, wanted_us, self._tolerance_us)
        if held is not None and held.image.shape[:2] != (height, width):
            held = None
        if held is not None and held.capture_time_us == wanted_us:
            return held
        row = await archive.nearest_side(
            job.key.rig, stream, wanted_us, self._tolerance_us, width=width, height=height
        )
        if row is None or (
            held is not None and abs(held.capture_time_us - wanted_us) <= abs(row.capture_time_us - wanted_us)
        ):
            return held
        image = Image(format=ImageFormat.Name(row.format), width=row.width, height=row.height, data=row.data)
        pixels = await self._workers.run(from_image, image, max_pixels=width * height)
        return SideFrame(pixels, row.capture_time_us)
