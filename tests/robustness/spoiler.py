"""A camera that changes a bit in every other payload after it was coded, as bad memory would."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

import google_crc32c

from ndsc.codec.codec import FrameEncoder
from ndsc.service.channel import open_channel
from ndsc.service.errors import reason_name
from ndsc.service.history import History
from ndsc.service.timestamps import to_timestamp
from ndsc.service.tls import load_certificates
from ndsc.v1 import types_pb2
from ndsc.v1.frame_stream_pb2 import Frame, Open, StreamFramesRequest
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceStub
from tests.robustness.credentials import RIG
from tests.robustness.history import Key
from tests.robustness.reference import Scene
from tests.robustness.rig import SIDE, Rig

NAME: Final = "spoilt"


async def send_spoilt(rig: Rig, frames: int) -> frozenset[Key]:
    """Stream LIVE frames to the rig's decoder, each once the one before is answered → those with a changed bit."""
    session = secrets.token_bytes(16)
    history = History(
        rig.folder / f"{NAME}.jsonl", side="node", kind="camera", camera=NAME, session=session.hex()
    )
    interval_us = round(1_000_000 / rig.fps)
    # In a while, and when the side-information camera captures too.
    epoch_us = (int(time.time()) + 3) * 1_000_000
    times_us = [epoch_us + interval_us * number for number in range(1, frames + 1)]
    coded = await asyncio.to_thread(_code, rig, times_us)
    failed = 0
    await asyncio.sleep(
        times_us[0] / 1e6 - time.time() - 0.5
    )  # the decoder gives up who is silent for longer
    async with open_channel(rig.address, load_certificates(rig.credentials.camera_files(NAME))) as channel:
        call: Any = FrameStreamServiceStub(channel).StreamFrames()
        await call.write(StreamFramesRequest(open=_open(rig, session, epoch_us)))
        history.record("start", delivery="live")
        opened = await call.read()
        history.record("opened", next_sequence=opened.opened.next_sequence, resumed=opened.opened.resumed)
        for sequence, (time_us, frame) in enumerate(zip(times_us, coded, strict=True), 1):
            await asyncio.sleep(time_us / 1e6 - time.time())
            history.record("captured", capture=sequence, capture_time_us=time_us)
            crc = google_crc32c.value(frame.payload)
            facts = {"capture_time_us": time_us, "rate_level": frame.rate_level, "crc": crc}
            history.record("coded", sequence=sequence, **facts)
            history.record("sent", sequence=sequence)
            await call.write(StreamFramesRequest(frame=frame))
            while (answer := await call.read()).WhichOneof("message") != "ack":
                if answer.WhichOneof("message") == "error":
                    failed += 1
                    reason = reason_name(answer.error.reason)
                    history.record("failed", sequence=answer.error.sequence, reason=reason)
            history.record("acked", up_to=answer.ack.up_to_sequence)
        await call.done_writing()
    counts = {"failed": failed, "dropped": 0, "unknown": 0, "waiting": 0}
    history.record("end", captured=frames, sent=frames, acked=frames, **counts)
    return frozenset((NAME, session.hex(), sequence) for sequence in range(1, frames + 1, 2))


def _code(rig: Rig, times_us: Sequence[int]) -> list[Frame]:
    """Every frame, the first and every other one with a changed bit."""
    encoder = FrameEncoder(rig.bundles.present)
    scene = Scene(rig.seed, rig.width, rig.height)
    rng = random.Random(rig.seed)
    messages = []
    before_us = times_us[0] - (times_us[1] - times_us[0])
    for number, time_us in enumerate(times_us):
        compressed = encoder.encode(scene.frame(time_us, "left"))
        payload = bytearray(compressed.payload)
        if number % 2 == 0:
            payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
        messages.append(
            Frame(
                capture_delta_us=time_us - before_us,
                rate_level=compressed.rate_level,
                payload=bytes(payload),
            )
        )
        before_us = time_us
    return messages


def _open(rig: Rig, session: bytes, epoch_us: int) -> Open:
    return Open(
        rig=RIG,
        camera=NAME,
        session_id=session,
        bitstream_id=rig.bundles.present.bitstream_id,
        delivery=types_pb2.DELIVERY_LIVE,
        geometry=types_pb2.Geometry(width=rig.width, height=rig.height),
        clock=types_pb2.CLOCK_SYNTHETIC,
        side_information_streams=[SIDE],
        capture_epoch=to_timestamp(epoch_us),
    )
