"""Decodes what ARCHIVE sessions have stored, for each camera in order, beside the live frames."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from decoder_service.archive import (
    AsyncArchive,
    FrameRow,
    SideRow,
    StoredFrame,
    StoredSession,
    StoreFullError,
    Usage,
)
from decoder_service.metrics import DecoderMetrics
from decoder_service.outputs import Picture
from decoder_service.pictures import Job, PairingTerms, PictureMaker
from decoder_service.publisher import Publisher
from decoder_service.streams import Account, StreamKey, StreamRegistry
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.errors import NdscError, ProviderError
from ndsc.codec.frames import encode_image
from ndsc.service.errors import (
    BITSTREAM_UNKNOWN,
    DECODER_FAILED,
    NOT_READY,
    RefusedError,
    reason_name,
    reason_of,
)
from ndsc.service.history import History
from ndsc.service.logs import RateLimitedLog
from ndsc.service.sqlite import StoreError
from ndsc.v1 import catalog_pb2, types_pb2
from ndsc.v1.frame_stream_pb2 import Frame, Open

_READ_AHEAD: Final = 16
_RETRY_S: Final = 1.0
_HOUSEKEEPING_S: Final = 5.0


class Backlog:
    """One task for each camera that has stored frames waiting.

    A picture is published once its frame is marked as decoded on disk: subscribers never get one twice, and a
    folder of pictures, written before, never lacks one.
    """

    def __init__(
        self,
        archive: AsyncArchive,
        maker: PictureMaker,
        publisher: Publisher,
        registry: StreamRegistry,
        pairing: PairingTerms,
        *,
        history: History,
        metrics: DecoderMetrics,
    ) -> None:
        self._archive = archive
        self._maker = maker
        self._publisher = publisher
        self._registry = registry
        self._pairing = pairing
        self._history = history
        self._metrics = metrics
        self._started_us = time.time_ns() // 1000
        self._running = False
        self._ending = False
        self._cameras: dict[StreamKey, _Camera] = {}
        self._housekeeping: asyncio.Task[None] | None = None
        self._log: Any = structlog.get_logger(__name__)
        self.usage = Usage(0, 0, 0, 0, 0)
        """How full the archive was a few seconds ago."""

    async def start(self) -> None:
        """Begin with what earlier runs of the server left. Raises StoreError."""
        self._housekeeping = asyncio.create_task(self._keep_house())
        newest = {(session.rig, session.camera): session for session in await self._archive.sessions()}
        # All of them before the first frame is decoded: they say whose pictures serve as side information.
        for session in newest.values():
            self._registry.remember(account_of(session))
        self._running = True
        for rig, camera in await self._archive.cameras_with_pending():
            self.wake(StreamKey(catalog_pb2.STREAM_KIND_CAMERA, rig, camera))
        for key in list(self._cameras):
            self.wake(key)

    def wake(self, key: StreamKey) -> None:
        """A frame of this camera was stored."""
        camera = self._cameras.setdefault(key, _Camera())
        camera.stored.set()
        if self._running and not self._ending and camera.task is None:
            camera.task = asyncio.create_task(self._decode_all(key, camera))

    async def close(self) -> None:
        """Break off what is under way; it waits, stored, for the next start."""
        self._ending = True
        tasks = [camera.task for camera in self._cameras.values() if camera.task is not None]
        if self._housekeeping is not None:
            tasks.append(self._housekeeping)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _decode_all(self, key: StreamKey, camera: _Camera) -> None:
        log = RateLimitedLog(self._log.bind(rig=key.rig, camera=key.camera))
        try:
            while not self._ending:
                camera.stored.clear()
                try:
                    frames = await self._archive.pending(key.rig, key.camera, limit=_READ_AHEAD)
                    for frame in frames:
                        if self._ending or not await self._decode(key, frame, log):
                            break
                    else:
                        if frames or camera.stored.is_set():
                            continue
                        del self._cameras[key]
                        return
                except StoreError as error:
                    log.warning("archive failed, trying again", error=str(error))
                if not self._ending:
                    await asyncio.sleep(_RETRY_S)
        finally:
            camera.task = None

    async def _decode(self, key: StreamKey, stored: StoredFrame, log: RateLimitedLog) -> bool:
        """Decode one frame. False: it cannot be now; try again later."""
        job = self._job(key, stored, log)
        try:
            picture = await self._maker.make(job)
            await self._serve_as_side_information(picture, job)
        except StoreError:
            raise
        except ProviderError as error:
            job.warn("decoder failed, trying again", sequence=job.sequence, error=str(error))
            return False
        except NdscError as error:
            if isinstance(error, RefusedError) and error.reason in (BITSTREAM_UNKNOWN, NOT_READY):
                job.warn("stored frames wait for their bundle", sequence=job.sequence, error=str(error))
                return False
            await _to_the_end(self._fail(key, stored, error, job))
            return True
        except Exception:
            # One frame must never hold up all that are behind it.
            session = stored.row.session_id.hex()[:8]
            self._log.exception(
                "frame failed", rig=key.rig, camera=key.camera, session=session, sequence=job.sequence
            )
            refusal = RefusedError(DECODER_FAILED, "the decoder failed on this frame; its log says why")
            await _to_the_end(self._fail(key, stored, refusal, job))
            return True
        await _to_the_end(self._publish(key, stored, picture))
        return True

    def _job(self, key: StreamKey, stored: StoredFrame, log: RateLimitedLog) -> Job:
        row = stored.row
        opened = Open.FromString(row.opening)
        loop = asyncio.get_running_loop()
        now_us = time.time_ns() // 1000
        waited_s = max(0.0, (now_us - stored.stored_at_us) / 1_000_000)
        # Side information of before a restart may come from its node's spool, so the wait begins anew.
        since_us = max(stored.stored_at_us, self._started_us)
        left_s = self._pairing.stored_wait_s - max(0.0, (now_us - since_us) / 1_000_000)
        return Job(
            key=key,
            session_id=row.session_id,
            sequence=row.sequence,
            capture_time_us=row.capture_time_us,
            compressed=CompressedFrame(
                row.bitstream_id,
                row.rate_level,
                opened.geometry.width,
                opened.geometry.height,
                row.payload,
            ),
            frame_bytes=row.frame_bytes,
            streams=tuple(opened.side_information_streams),
            arrived=loop.time() - waited_s,
            deadline=loop.time() + left_s,
            stored=True,
            warn=partial(log.warning, session=row.session_id.hex()[:8]),
        )

    async def _publish(self, key: StreamKey, stored: StoredFrame, picture: Picture) -> None:
        account = await self._account(key, stored)
        if await self._archive.mark_decoded(stored.number):
            self._publisher.publish(picture, account)

    async def _fail(self, key: StreamKey, stored: StoredFrame, error: NdscError, job: Job) -> None:
        reason = reason_of(error)
        account = await self._account(key, stored)
        if await self._archive.mark_failed(stored.number, int(reason)):
            account.failed += 1
            self._metrics.failed(key, reason)
            self._history.record(
                "failed",
                kind="camera",
                rig=key.rig,
                camera=key.camera,
                session=stored.row.session_id.hex(),
                sequence=job.sequence,
                reason=reason_name(reason),
            )
            job.warn("stored frame failed", sequence=job.sequence, error=str(error))

    async def _serve_as_side_information(self, picture: Picture, job: Job) -> None:
        """Keep a picture that other cameras' stored frames may need, as they keep side information."""
        if not self._registry.serves_as_side_information(picture.rig, picture.camera):
            return
        height, width = picture.image.shape[:2]
        data = await asyncio.to_thread(encode_image, picture.image, "png")
        row = SideRow(
            picture.rig,
            picture.camera,
            picture.session_id,
            picture.sequence,
            picture.capture_time_us,
            int(types_pb2.IMAGE_FORMAT_PNG),
            width,
            height,
            data,
        )
        try:
            await self._archive.put_side(row)
        except StoreFullError as error:
            # An archive full of waiting frames gets room as they are decoded, so that must go on.
            job.warn("picture not stored as side information", sequence=job.sequence, error=str(error))

    async def _account(self, key: StreamKey, stored: StoredFrame) -> Account:
        """The account of a frame's session, the one that its node's calls use."""
        session_id = stored.row.session_id
        account = self._registry.resume(key, session_id)
        if account is None:
            account = await stored_account(self._archive, key, session_id)
            if account is None:
                raise StoreError(f"the archive knows no session {session_id.hex()} of a frame that it holds")
            account = self._registry.remember(account)
        return account

    async def _keep_house(self) -> None:
        """Let go of what is past its time, and look at how full the archive is."""
        warnings = RateLimitedLog(self._log)
        while True:
            try:
                gone = await self._archive.expire()
                if gone:
                    self._log.info("archive: expired", rows=gone)
                self.usage = await self._archive.usage()
            except StoreError as error:
                warnings.warning("archive: nothing expired", error=str(error))
            await asyncio.sleep(_HOUSEKEEPING_S)


@dataclass(eq=False)
class _Camera:
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


def opening_of(opened: Open) -> bytes:
    """What frames are stored under: the constants of a call."""
    kept = Open()
    kept.CopyFrom(opened)
    kept.ClearField("capture_epoch")
    kept.ClearField("next_sequence")
    return kept.SerializeToString(deterministic=True)


def frame_row(opened: Open, opening: bytes, frame: Frame, sequence: int, capture_time_us: int) -> FrameRow:
    """A Frame message as it is stored."""
    return FrameRow(
        opened.rig,
        opened.camera,
        opened.session_id,
        sequence,
        opening,
        opened.bitstream_id,
        capture_time_us,
        frame.rate_level,
        frame.payload,
        frame.ByteSize(),
        frame.dropped_before,
    )


async def stored_account(archive: AsyncArchive, key: StreamKey, session_id: bytes) -> Account | None:
    """The account of a session as the archive knows it, or None."""
    session = await archive.session(key.rig, key.camera, session_id)
    return None if session is None else account_of(session)


def account_of(session: StoredSession) -> Account:
    """The account of a stored session."""
    opened = Open.FromString(session.opening)
    return Account(
        StreamKey(catalog_pb2.STREAM_KIND_CAMERA, session.rig, session.camera),
        session.session_id,
        opened.geometry.width,
        opened.geometry.height,
        opened.delivery,
        tuple(opened.side_information_streams),
        opened.clock,
        done_sequence=session.last_sequence,
        received=session.waiting + session.decoded + session.failed,
        decoded=session.decoded,
        failed=session.failed,
        dropped=session.dropped,
    )


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await work that goes on when the caller is cancelled: what the disk says must be told to others too."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
