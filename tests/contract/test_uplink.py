"""How a call ends while the node writes."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest
import structlog

from encoder_service.frames import CallKey, Numbered
from encoder_service.uplink import SessionError, Uplink
from ndsc.service import errors
from ndsc.service.channel import open_channel
from ndsc.v1 import frame_stream_pb2 as fs
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceStub
from ndsc.v1.types_pb2 import Heartbeat
from tests.contract.encoder_peer import PATIENCE_S, Peer


class Deaf:
    """Is told what the decoder says, and does nothing."""

    def acknowledged(self, up_to_sequence: int, times_s: Any) -> None:
        """Frames are done with."""

    def failed(self, sequence: int, reason: str) -> None:
        """A frame failed."""


async def open_uplink(peer: Peer, channel: grpc.aio.Channel) -> Uplink:
    uplink = Uplink(
        FrameStreamServiceStub(channel).StreamFrames(),
        heartbeat=fs.StreamFramesRequest(heartbeat=Heartbeat()),
        address=peer.address,
        receiver=Deaf(),
        changed=asyncio.Event(),
        log=structlog.get_logger(),
    )
    await uplink.open(fs.StreamFramesRequest(open=fs.Open()), PATIENCE_S)
    return uplink


async def write_without_pause(uplink: Uplink, payload: bytes) -> None:
    sequence = 0
    while True:
        sequence += 1
        frame = Numbered(CallKey(b"", b""), sequence, 0, 0, payload, 0, 0.0)
        await uplink.send([frame], fs.StreamFramesRequest(frame=fs.Frame(payload=payload)))


async def test_the_reason_of_a_broken_session_survives_writes_at_the_same_time(peer: Peer) -> None:
    peer.ack_each = False
    async with open_channel(peer.address) as channel:
        uplink = await open_uplink(peer, channel)
        work = asyncio.create_task(write_without_pause(uplink, bytes(1000)))
        await peer.until_frames(5)
        peer.call.abort(errors.SESSION_SUPERSEDED, "another node took over")
        with pytest.raises(SessionError, match=r"another node took over \(SESSION_SUPERSEDED\)"):
            await work
        await uplink.close()


async def test_silence_ends_a_write_that_no_one_reads(peer: Peer) -> None:
    peer.alive = peer.reads = False
    async with open_channel(peer.address) as channel:
        uplink = await open_uplink(peer, channel)
        with pytest.raises(SessionError, match=r"was silent for 0\.3 s"):
            await asyncio.wait_for(write_without_pause(uplink, bytes(1 << 20)), PATIENCE_S)
        await uplink.close()
