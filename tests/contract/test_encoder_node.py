"""The camera node against a scripted decoder, which records what it gets and grants credit as told."""

from __future__ import annotations

import asyncio
import json
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
import structlog
from numpy.typing import NDArray
from structlog.testing import capture_logs

from encoder_service import node as node_module
from encoder_service import server as server_module
from encoder_service.camera import CameraRole
from encoder_service.node import Node
from encoder_service.server import main
from encoder_service.settings import EncoderSettings
from encoder_service.side import SideInformationRole
from encoder_service.uplink import SessionError, TooLargeError, Uplink
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.errors import GeometryError
from ndsc.codec.frames import decode_image, encode_image, write_image
from ndsc.service import errors
from ndsc.service.channel import open_channel
from ndsc.service.health import check_health
from ndsc.service.settings import load_settings
from ndsc.service.timestamps import from_timestamp
from ndsc.sources import Clock, SourceError, SourceFrame
from ndsc.v1 import frame_stream_pb2 as fs
from ndsc.v1 import side_information_pb2 as si
from ndsc.v1 import types_pb2
from ndsc.v1.frame_stream_pb2_grpc import (
    FrameStreamServiceServicer,
    FrameStreamServiceStub,
    add_FrameStreamServiceServicer_to_server,
)
from ndsc.v1.side_information_pb2_grpc import (
    SideInformationServiceServicer,
    add_SideInformationServiceServicer_to_server,
)
from ndsc.v1.types_pb2 import Credit, Drain, FrameError, Heartbeat

WIDTH, HEIGHT = 40, 24
PATIENCE_S = 20
AMPLE = Credit(max_frames=100, max_bytes=1 << 30)


@dataclass
class Peer(FrameStreamServiceServicer, SideInformationServiceServicer):
    """A decoder that does what a test says. Takes one session."""

    credit: Credit = field(default_factory=lambda: AMPLE)
    heartbeat_ms: int = 2000
    ack_each: bool = True
    """Acknowledge every frame at once, with the same credit."""
    alive: bool = True
    """Send heartbeats."""
    answers: bool = True
    refuses: tuple[types_pb2.ErrorReason, str] | None = None
    opens: list[Any] = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)
    gives_up_after: int | None = None
    heartbeats: int = 0
    half_closed: bool = False
    address: str = ""
    context: Any = None
    side: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def StreamFrames(  # type: ignore[override]  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> None:
        await self._talk(context)

    async def StreamSideInformation(  # type: ignore[override]  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> None:
        self.side = True
        await self._talk(context)

    async def _talk(self, context: Any) -> None:
        self.context = context
        request = await context.read()
        assert request.WhichOneof("message") == "open"
        self.opens.append(request.open)
        await self._tell()
        if self.refuses:
            await errors.abort(context, *self.refuses)
        if not self.answers:
            await asyncio.Event().wait()
        facts: dict[str, Any] = {"credit": self.credit, "heartbeat_interval_ms": self.heartbeat_ms}
        if self.side:
            await self.say(opened=si.SideInformationOpened(**facts))
        else:
            await self.say(opened=fs.Opened(next_sequence=1, **facts))
        beats = asyncio.create_task(self._beat())
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                kind = request.WhichOneof("message")
                if kind == "frame":
                    self.frames.append(request.frame)
                    if len(self.frames) == self.gives_up_after:
                        await errors.abort(context, errors.SESSION_SUPERSEDED, "another node took over")
                    if self.ack_each:
                        await self.ack(request.frame.sequence, self.credit)
                else:
                    assert kind == "heartbeat"
                    self.heartbeats += 1
                await self._tell()
            self.half_closed = True
            await self._tell()
        finally:
            beats.cancel()

    async def _beat(self) -> None:
        while self.alive:
            await asyncio.sleep(self.heartbeat_ms / 2000)
            await self.say(heartbeat=Heartbeat())

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def say(self, **message: Any) -> None:
        make = si.StreamSideInformationResponse if self.side else fs.StreamFramesResponse
        await self.context.write(make(**message))

    async def ack(self, up_to_sequence: int, credit: Credit) -> None:
        make = si.SideInformationAck if self.side else fs.Ack
        await self.say(ack=make(up_to_sequence=up_to_sequence, credit=credit))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(condition)

    async def until_idle(self) -> None:
        """Two heartbeats more: the node had time to send a frame if it wanted to."""
        seen = self.heartbeats
        await self.until(lambda: self.heartbeats >= seen + 2)


@asynccontextmanager
async def serve(peer: Peer) -> AsyncIterator[grpc.aio.Server]:
    server = grpc.aio.server()
    add_FrameStreamServiceServicer_to_server(peer, server)
    add_SideInformationServiceServicer_to_server(peer, server)
    peer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


class ScriptedSource:
    """Gives frames when the test says so; `give` returns when the node's queue has them."""

    clock: Clock = "unsynchronized"
    width, height = WIDTH, HEIGHT
    epoch_us = 1_700_000_000_000_000

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self._done = threading.Semaphore(0)
        self._count = 0

    def __iter__(self) -> Iterator[SourceFrame]:
        while (order := self._orders.get()) is not None:
            if isinstance(order, BaseException):
                raise order
            try:
                for _ in range(order):
                    yield SourceFrame(
                        picture(self._count), self.epoch_us + 1000 * self._count, str(self._count)
                    )
                    self._count += 1
            finally:
                self._done.release()

    async def give(self, frames: int) -> None:
        self._orders.put(frames)
        assert await asyncio.to_thread(self._done.acquire, timeout=PATIENCE_S)

    def fail(self, error: BaseException) -> None:
        self._orders.put(error)

    def close(self) -> None:
        self._orders.put(None)


def picture(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "frames"
    path.mkdir()
    for number in range(10):
        write_image(path / f"{number:03d}.png", picture(number))
    return path


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedSource:
    source = ScriptedSource()
    monkeypatch.setattr(node_module, "open_source", lambda *_args, **_more: source)
    return source


class Nodes:
    """Makes nodes with the tiny bundle."""

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle

    def __call__(self, peer: Peer, source: Path | str, **more: Any) -> Node:
        values: dict[str, Any] = {"pace": "credit", "bundle": self._bundle, "threads": 1, **more}
        settings = EncoderSettings(decoder=peer.address, source=str(source), **values)
        return Node(settings, SideInformationRole if settings.role == "side-information" else CameraRole)


@pytest.fixture
def make_node(tiny_bundle_path: Path) -> Nodes:
    return Nodes(tiny_bundle_path)


async def quietly() -> None:
    """Nothing to do once the session is open."""


async def run(node: Node, on_streaming: Callable[[], Awaitable[None]] = quietly) -> dict[str, Any]:
    """Run to the end and check the account."""
    async with asyncio.timeout(PATIENCE_S):
        await node.run(on_streaming)
    return checked(node)


def checked(node: Node) -> dict[str, Any]:
    summary = node.summary()
    assert summary["captured"] == summary["sent"] + summary["dropped"]
    assert summary["sent"] == summary["acked"]
    return summary


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with serve(peer):
        yield peer


async def test_a_folder_arrives_whole_in_order_and_accounted(
    peer: Peer, folder: Path, make_node: Nodes, tiny_bundle: Bundle
) -> None:
    node = make_node(
        peer,
        folder,
        rig="car",
        camera="front",
        side_information=("right", "rear"),
        rate_level=2,
        epoch="2026-01-31T12:00:00Z",
        fps=25,
        frame_id="front_optical",
    )
    summary = await run(node)

    [opened] = peer.opens
    assert (opened.rig, opened.camera, opened.frame_id) == ("car", "front", "front_optical")
    assert len(opened.session_id) == 16
    assert opened.bitstream_id == tiny_bundle.bitstream_id
    assert opened.delivery == types_pb2.DELIVERY_LIVE
    assert opened.clock == types_pb2.CLOCK_SYNTHETIC
    assert (opened.geometry.width, opened.geometry.height) == (WIDTH, HEIGHT)
    assert list(opened.side_information_streams) == ["right", "rear"]
    assert from_timestamp(opened.capture_epoch) == 1_769_860_800_000_000

    assert [frame.sequence for frame in peer.frames] == list(range(1, 11))
    assert [frame.capture_offset_us for frame in peer.frames] == [40_000 * number for number in range(10)]
    assert all(frame.dropped_before == 0 and frame.rate_level == 2 for frame in peer.frames)
    encoder = FrameEncoder(tiny_bundle)
    assert [frame.payload for frame in peer.frames] == [
        encoder.encode(picture(number), 2).payload for number in range(10)
    ]
    assert all(frame.ByteSize() - len(frame.payload) <= 16 for frame in peer.frames)
    assert peer.half_closed

    assert summary["captured"] == summary["sent"] == 10
    assert summary["failed"] == summary["dropped"] == 0
    assert summary["payload_bytes"] == sum(len(frame.payload) for frame in peer.frames)
    assert summary["frame_bytes"] == sum(frame.ByteSize() for frame in peer.frames)
    assert summary["encode_ms"] > 0
    assert summary["session"] == opened.session_id.hex()


@pytest.mark.parametrize("image_format", ["jpeg", "png", "raw"])
async def test_side_information_arrives_as_it_is(
    peer: Peer, folder: Path, make_node: Nodes, image_format: str
) -> None:
    node = make_node(
        peer,
        folder,
        role="side-information",
        camera="right",
        side_format=image_format,
        limit=3,
        epoch=1_700_000_000.5,
        clock="ptp",
        bundle=None,
    )
    summary = await run(node)
    [opened] = peer.opens
    assert (opened.rig, opened.camera, opened.clock) == ("rig", "right", types_pb2.CLOCK_PTP)
    assert (opened.geometry.width, opened.geometry.height) == (WIDTH, HEIGHT)
    assert [frame.sequence for frame in peer.frames] == [1, 2, 3]
    assert [from_timestamp(frame.capture_time) for frame in peer.frames] == [
        1_700_000_000_500_000 + 100_000 * number for number in range(3)
    ]
    for number, frame in enumerate(peer.frames):
        assert (frame.image.width, frame.image.height) == (WIDTH, HEIGHT)
        if image_format == "raw":
            image = np.frombuffer(frame.image.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
            expected = picture(number)
        else:
            image = decode_image(frame.image.data)
            expected = decode_image(encode_image(picture(number), image_format))
        np.testing.assert_array_equal(image, expected)
    assert summary["sent"] == 3
    assert summary["payload_bytes"] == sum(len(frame.image.data) for frame in peer.frames)


async def test_no_more_frames_are_in_flight_than_the_credit_allows(folder: Path, make_node: Nodes) -> None:
    peer = Peer(credit=Credit(max_frames=3, max_bytes=1 << 20), ack_each=False, heartbeat_ms=100)
    async with serve(peer):
        work = asyncio.create_task(run(make_node(peer, folder)))
        await peer.until(lambda: len(peer.frames) == 3)
        await peer.until_idle()
        assert len(peer.frames) == 3
        await peer.ack(1, Credit(max_frames=3, max_bytes=1 << 20))
        await peer.until(lambda: len(peer.frames) == 4)
        await peer.until_idle()
        assert len(peer.frames) == 4
        await peer.ack(2, Credit(max_frames=5, max_bytes=1 << 20))
        await peer.until(lambda: len(peer.frames) == 7)
        await peer.until_idle()
        assert len(peer.frames) == 7
        peer.ack_each = True
        await peer.ack(7, AMPLE)
        summary = await work
    assert (summary["captured"], summary["sent"], summary["dropped"]) == (10, 10, 0)


async def test_no_more_bytes_are_in_flight_than_the_credit_allows(
    folder: Path, make_node: Nodes, tiny_bundle: Bundle
) -> None:
    sizes = [len(FrameEncoder(tiny_bundle).encode(picture(number)).payload) for number in range(10)]
    three_but_for_one_byte = sum(sizes[:3]) - 1
    peer = Peer(
        credit=Credit(max_frames=10, max_bytes=three_but_for_one_byte), ack_each=False, heartbeat_ms=100
    )
    async with serve(peer):
        work = asyncio.create_task(run(make_node(peer, folder)))
        await peer.until(lambda: len(peer.frames) == 2)
        await peer.until_idle()
        assert len(peer.frames) == 2
        peer.ack_each = True
        await peer.ack(2, peer.credit)
        assert (await work)["sent"] == 10


async def test_without_credit_the_oldest_frames_give_way_and_are_counted(
    scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer = Peer(credit=Credit(), heartbeat_ms=100)
    async with serve(peer):
        node = make_node(peer, "camera:x", pace="realtime", queue_frames=2)
        work = asyncio.create_task(run(node))
        await scripted.give(5)
        await peer.until_idle()
        assert peer.frames == []
        await peer.ack(0, Credit(max_frames=1, max_bytes=1 << 20))
        peer.credit = Credit(max_frames=1, max_bytes=1 << 20)
        await peer.until(lambda: len(peer.frames) == 2)
        peer.ack_each = False
        await scripted.give(1)
        await peer.until(lambda: len(peer.frames) == 3)
        await scripted.give(4)
        peer.ack_each = True
        await peer.ack(3, AMPLE)
        await peer.until(lambda: len(peer.frames) == 5)
        scripted.close()
        summary = await work
    assert [frame.sequence for frame in peer.frames] == [1, 2, 3, 4, 5]
    assert [frame.capture_offset_us // 1000 for frame in peer.frames] == [3, 4, 5, 8, 9]
    assert [frame.dropped_before for frame in peer.frames] == [3, 0, 0, 2, 0]
    assert (summary["captured"], summary["sent"], summary["dropped"]) == (10, 5, 5)


async def test_frames_that_still_wait_at_the_end_are_counted_as_dropped(
    scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer = Peer(credit=Credit(), heartbeat_ms=100)
    async with serve(peer):
        node = make_node(peer, "camera:x", pace="realtime")
        work = asyncio.create_task(run(node))
        await scripted.give(5)
        node.stop()
        summary = await work
    assert (summary["captured"], summary["sent"], summary["dropped"]) == (5, 0, 5)
    assert peer.half_closed


async def test_a_decoder_that_takes_no_frame_after_the_source_ended_is_reported(
    scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer = Peer(credit=Credit(), heartbeat_ms=100)
    async with serve(peer):
        node = make_node(peer, "x", drain_seconds=0.3)
        work = asyncio.create_task(run(node))
        await scripted.give(2)
        scripted.close()
        with pytest.raises(SessionError, match=r"took no frame for 0\.3 s"):
            await work
    summary = checked(node)
    assert (summary["captured"], summary["dropped"]) == (2, 2)


async def test_pace_credit_loses_nothing_with_a_slow_decoder(folder: Path, make_node: Nodes) -> None:
    peer = Peer(credit=Credit(max_frames=1, max_bytes=1 << 20))
    async with serve(peer):
        summary = await run(make_node(peer, folder, queue_frames=1, loop=True, limit=30))
    assert [frame.sequence for frame in peer.frames] == list(range(1, 31))
    assert (summary["sent"], summary["dropped"]) == (30, 0)


async def test_a_frame_beyond_every_credit_is_dropped_in_real_time(
    scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer = Peer(credit=Credit(max_frames=4, max_bytes=10))
    async with serve(peer):
        work = asyncio.create_task(run(make_node(peer, "camera:x", pace="realtime")))
        await scripted.give(1)
        scripted.close()
        summary = await work
    assert (summary["captured"], summary["sent"], summary["dropped"]) == (1, 0, 1)


async def test_a_frame_beyond_every_credit_is_an_error_when_none_may_be_lost(
    folder: Path, make_node: Nodes
) -> None:
    peer = Peer(credit=Credit(max_frames=4, max_bytes=10))
    async with serve(peer):
        node = make_node(peer, folder)
        with pytest.raises(TooLargeError, match="beyond the 10 bytes"):
            await run(node)
    assert checked(node)["sent"] == 0


async def test_errors_of_single_frames_are_counted_and_the_stream_goes_on(
    folder: Path, make_node: Nodes
) -> None:
    peer = Peer(ack_each=False)
    async with serve(peer):
        work = asyncio.create_task(run(make_node(peer, folder)))
        await peer.until(lambda: len(peer.frames) == 10)
        for sequence in (2, 2, 5, 11):  # said twice, and one that was never sent: each frame fails once
            await peer.say(
                error=FrameError(
                    sequence=sequence, reason=types_pb2.ERROR_REASON_PAYLOAD_CORRUPT, message="no match"
                )
            )
        await peer.ack(10, AMPLE)
        summary = await work
    assert (summary["sent"], summary["acked"], summary["failed"]) == (10, 10, 2)


async def test_a_decoder_that_drains_gets_no_more_frames(folder: Path, make_node: Nodes) -> None:
    peer = Peer(credit=Credit(max_frames=2, max_bytes=1 << 20), ack_each=False, heartbeat_ms=100)
    async with serve(peer):
        node = make_node(peer, folder)
        work = asyncio.create_task(run(node))
        await peer.until(lambda: len(peer.frames) == 2)
        await peer.say(drain=Drain(retry_after_ms=1000))
        await peer.ack(1, AMPLE)
        await peer.until_idle()
        assert len(peer.frames) == 2
        await peer.ack(2, AMPLE)
        with pytest.raises(SessionError, match="shut down; every frame it took is acknowledged"):
            await work
    summary = checked(node)
    assert summary["sent"] == 2
    assert summary["captured"] > 2


async def test_a_drain_after_the_last_frame_is_no_error(folder: Path, make_node: Nodes) -> None:
    peer = Peer(ack_each=False, heartbeat_ms=100)
    async with serve(peer):
        work = asyncio.create_task(run(make_node(peer, folder)))
        await peer.until(lambda: len(peer.frames) == 10)
        await peer.ack(9, AMPLE)
        await peer.until_idle()
        await peer.say(drain=Drain(retry_after_ms=1000))
        await peer.ack(10, AMPLE)
        assert (await work)["sent"] == 10


async def test_a_decoder_that_vanishes_is_one_clear_line(folder: Path, make_node: Nodes) -> None:
    peer = Peer(ack_each=False)
    async with serve(peer) as server:
        node = make_node(peer, folder, loop=True)
        work = asyncio.create_task(run(node))
        await peer.until(lambda: len(peer.frames) >= 10)
        await server.stop(None)
        with pytest.raises(SessionError, match=r"frames were not acknowledged") as caught:
            await work
    assert "\n" not in str(caught.value)
    summary = node.summary()
    assert summary["captured"] == summary["sent"] + summary["dropped"]
    assert summary["acked"] == 0


async def test_a_silent_decoder_is_given_up(folder: Path, make_node: Nodes) -> None:
    peer = Peer(ack_each=False, alive=False, heartbeat_ms=100)
    async with serve(peer):
        with pytest.raises(SessionError, match=r"was silent for 0\.3 s"):
            await run(make_node(peer, folder))


async def test_a_decoder_that_lives_but_never_acknowledges_is_given_up(
    folder: Path, make_node: Nodes
) -> None:
    peer = Peer(ack_each=False, heartbeat_ms=100)
    async with serve(peer):
        with pytest.raises(SessionError, match=r"acknowledged nothing for 0\.3 s; 10 frames may be lost"):
            await run(make_node(peer, folder, drain_seconds=0.3))


async def test_an_acknowledgement_of_a_frame_never_sent_is_an_error(folder: Path, make_node: Nodes) -> None:
    peer = Peer(ack_each=False)
    async with serve(peer):
        work = asyncio.create_task(run(make_node(peer, folder)))
        await peer.until(lambda: len(peer.frames) == 10)
        await peer.ack(11, AMPLE)
        with pytest.raises(SessionError, match="acknowledged frame 11, which was never sent"):
            await work


async def test_a_refused_session_says_why(folder: Path, make_node: Nodes) -> None:
    peer = Peer(refuses=(types_pb2.ERROR_REASON_BITSTREAM_UNKNOWN, "no bundle 00ff is served here"))
    async with serve(peer):
        with pytest.raises(SessionError, match=r"no bundle 00ff is served here \(BITSTREAM_UNKNOWN\)"):
            await run(make_node(peer, folder))


async def test_the_reason_of_a_broken_session_survives_writes_at_the_same_time() -> None:
    peer = Peer(gives_up_after=5, ack_each=False)
    async with serve(peer), open_channel(peer.address) as channel:
        uplink = Uplink(
            FrameStreamServiceStub(channel).StreamFrames(),
            heartbeat=fs.StreamFramesRequest(heartbeat=Heartbeat()),
            address=peer.address,
            on_end=lambda: None,
            log=structlog.get_logger(),
        )
        await uplink.open(fs.StreamFramesRequest(open=fs.Open()), PATIENCE_S)
        request = fs.StreamFramesRequest(frame=fs.Frame(payload=bytes(1000)))

        async def write_without_pause() -> None:
            while True:
                await uplink.send(request, 1000)

        with pytest.raises(SessionError, match=r"another node took over \(SESSION_SUPERSEDED\)"):
            await write_without_pause()
        await uplink.close()


async def test_a_decoder_that_does_not_answer_the_open_is_given_up(folder: Path, make_node: Nodes) -> None:
    peer = Peer(answers=False)
    async with serve(peer):
        with pytest.raises(SessionError, match=r"did not open the session within 0\.3 s"):
            await run(make_node(peer, folder, handshake_timeout_s=0.3))


async def test_an_idle_node_sends_heartbeats(scripted: ScriptedSource, make_node: Nodes) -> None:
    peer = Peer(heartbeat_ms=100)
    async with serve(peer):
        work = asyncio.create_task(run(make_node(peer, "camera:x", pace="realtime")))
        await peer.until(lambda: peer.heartbeats >= 3)
        await scripted.give(1)
        scripted.close()
        assert (await work)["sent"] == 1


async def test_a_source_that_fails_midway_ends_the_session_cleanly(
    peer: Peer, folder: Path, make_node: Nodes
) -> None:
    (folder / "004.png").write_bytes(b"no picture")
    node = make_node(peer, folder)
    with pytest.raises(SourceError, match=r"004\.png"):
        await run(node)
    assert checked(node)["sent"] == 4
    assert peer.half_closed


async def test_a_frame_size_that_the_bundle_cannot_code_is_refused_before_the_session(
    peer: Peer, tmp_path: Path, make_node: Nodes
) -> None:
    write_image(tmp_path / "wide.png", np.zeros((1, 4000, 3), np.uint8))
    with pytest.raises(GeometryError, match="4000x1"):
        await run(make_node(peer, tmp_path))
    assert peer.opens == []


class Process:
    """`python -m encoder_service` with the given flags."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *flags: str) -> Process:
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "encoder_service",
                "--listen",
                "127.0.0.1:0",
                "--log-level",
                "error",
                *flags,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def line(self, word: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            text = (await self.process.stdout.readline()).decode()
        assert text.startswith(word + " "), text
        facts: dict[str, Any] = json.loads(text.removeprefix(word))
        return facts

    async def end(self) -> tuple[int | None, str, str]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                out, err = await self.process.communicate()
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
        return self.process.returncode, out.decode(), err.decode()


async def test_the_process_serves_health_prints_its_account_and_exits_0(
    folder: Path, tiny_bundle_path: Path
) -> None:
    peer = Peer(ack_each=False)
    async with serve(peer):
        process = await Process.start(
            "--source",
            str(folder),
            "--decoder",
            peer.address,
            "--pace",
            "credit",
            "--bundle",
            str(tiny_bundle_path),
        )
        port = (await process.line("ready"))["port"]
        assert await check_health(f"127.0.0.1:{port}") == "SERVING"
        assert await check_health(f"127.0.0.1:{port}", "encoder") == "SERVING"
        await peer.until(lambda: len(peer.frames) == 10)
        await peer.ack(10, AMPLE)
        done = await process.line("done")
        assert await process.end() == (0, "", "")
    assert (done["role"], done["rig"], done["camera"]) == ("camera", "rig", "left")
    assert (done["captured"], done["sent"], done["acked"], done["failed"], done["dropped"]) == (
        10,
        10,
        10,
        0,
        0,
    )


async def test_sigterm_finishes_what_is_under_way_and_exits_0(folder: Path, tiny_bundle_path: Path) -> None:
    peer = Peer(credit=Credit(max_frames=4, max_bytes=1 << 20))
    async with serve(peer):
        process = await Process.start(
            "--source",
            str(folder),
            "--loop",
            "--decoder",
            peer.address,
            "--fps",
            "200",
            "--bundle",
            str(tiny_bundle_path),
        )
        await process.line("ready")
        await peer.until(lambda: len(peer.frames) >= 5)
        process.process.send_signal(signal.SIGTERM)
        done = await process.line("done")
        assert await process.end() == (0, "", "")
        assert peer.half_closed
    assert done["captured"] == done["sent"] + done["dropped"]
    assert done["sent"] == done["acked"] == len(peer.frames)
    assert sum(frame.dropped_before for frame in peer.frames) <= done["dropped"]


async def test_no_decoder_is_one_clear_line_within_the_handshake_time(
    folder: Path, tiny_bundle_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # taken, but nobody listens
        address = f"127.0.0.1:{free.getsockname()[1]}"
        start_s = time.monotonic()
        process = await Process.start(
            "--source",
            str(folder),
            "--decoder",
            address,
            "--handshake-timeout-s",
            "1",
            "--bundle",
            str(tiny_bundle_path),
        )
        code, out, err = await process.end()
    assert time.monotonic() - start_s < 15
    assert (code, out) == (1, "")
    assert err == (
        f"error: no decoder answers at {address}: start it with `ndsc serve decoder`, or give its "
        f"address with --decoder\n"
    )


async def test_health_waits_for_the_session(folder: Path, tiny_bundle_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    peer = Peer(answers=False)
    async with serve(peer):
        process = await Process.start(
            *("--source", str(folder), "--decoder", peer.address, "--bundle", str(tiny_bundle_path)),
            *("--listen", listen),
        )
        await peer.until(lambda: len(peer.opens) == 1)
        assert await check_health(listen) == "NOT_SERVING"
        assert await check_health(listen, "encoder") == "NOT_SERVING"
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == (0, "", "")


async def test_plaintext_to_another_machine_is_warned_of(peer: Peer, folder: Path, make_node: Nodes) -> None:
    peer.address = peer.address.replace("127.0.0.1", "0.0.0.0")  # connects to this machine all the same
    with capture_logs() as logs:
        await run(make_node(peer, folder, limit=1, allow_plaintext_beyond_loopback=True))
    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert [log["decoder"] for log in warnings] == [peer.address]


def test_an_interrupt_before_the_signal_handlers_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(_: EncoderSettings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server_module, "serve", interrupted)
    monkeypatch.setattr(server_module, "configure_logs", lambda **_: None)
    with pytest.raises(SystemExit) as ended:
        main(["--source", "x"])
    assert ended.value.code == 130


async def test_sigterm_before_the_session_is_open_exits_0(folder: Path, tiny_bundle_path: Path) -> None:
    peer = Peer(answers=False)
    async with serve(peer):
        process = await Process.start(
            *("--source", str(folder), "--decoder", peer.address, "--bundle", str(tiny_bundle_path))
        )
        await peer.until(lambda: len(peer.opens) == 1)
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == (0, "", "")


async def test_a_port_that_is_taken_is_one_clear_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await Process.start("--source", str(folder), "--listen", address)
        code, out, err = await process.end()
    assert (code, out) == (1, "")
    assert err.startswith(f"error: cannot listen at {address}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("written", "epoch_us"),
    [
        ("1700000000.25", 1_700_000_000_250_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000),
        ("2023-11-14 23:13:20.5+01:00", 1_700_000_000_500_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000_000),
        ("0", 0),
    ],
)
def test_an_epoch_is_seconds_or_a_date_which_is_utc_unless_stated(written: str, epoch_us: int) -> None:
    assert load_settings(EncoderSettings, ["--source", "x", "--epoch", written]).epoch == epoch_us


def test_flags_come_before_environment_before_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        'source = "file"\ncamera = "file"\nrig = "file"\nside-information = ["a", "b"]\nepoch = 12.5\n'
    )
    monkeypatch.setenv("NDSC_ENCODER_CAMERA", "environment")
    monkeypatch.setenv("NDSC_ENCODER_RIG", "environment")
    settings = load_settings(EncoderSettings, ["--config", str(file), "--rig", "flag"])
    assert (settings.source, settings.camera, settings.rig) == ("file", "environment", "flag")
    assert settings.side_information == ("a", "b")
    assert settings.epoch == 12_500_000
    assert (
        load_settings(EncoderSettings, ["--source", "x", "--side-information", "none"]).side_information == ()
    )


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "source: Field required"),
        (["--source", "x", "--rig", "a b"], "rig: 'a b' is not a name"),
        (["--source", "x", "--epoch", "yesterday"], "epoch: 'yesterday' is neither seconds"),
        (
            ["--source", "camera:/dev/video0", "--pace", "credit"],
            "pace: credit would make a live source wait",
        ),
        (["--source", "x", "--decoder", "nowhere"], "decoder: 'nowhere' is not an address"),
        (["--source", "x", "--limit", "0"], "limit: "),
        (
            ["--source", "x", "--decoder", "decoder.example:50051"],
            "decoder: decoder.example:50051 is another machine and traffic is not encrypted; give --tls-ca, "
            "--tls-certificate and --tls-key, or add --allow-plaintext-beyond-loopback",
        ),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    flags: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {line}")
