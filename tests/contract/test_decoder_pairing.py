"""Which side information a session's frames are decoded with."""

from __future__ import annotations

import asyncio
import secrets
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from decoder_service.attached import AttachedSource
from decoder_service.metrics import DecoderMetrics
from decoder_service.outputs import Hub
from decoder_service.side_information import SideFrame, SideInformationStore
from decoder_service.streams import Account, StreamRegistry
from ndsc.client import Client, SubscribedFrame
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.frames import Frame, write_image
from ndsc.service.images import from_image
from ndsc.sources import SourceError, open_source
from ndsc.v1 import types_pb2
from ndsc.v1.catalog_pb2 import STREAM_KIND_SIDE_INFORMATION
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import (
    EPOCH_US,
    RAW,
    CameraNode,
    SideNode,
    camera_open,
    picture_of,
    side_open,
    streams,
    subscribed,
    until,
)

LONG_MS = 20_000
"""A wait that no test sits out."""

PAIRED = types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED
ABSENT = types_pb2.SIDE_INFORMATION_OUTCOME_ABSENT


async def decode_one(
    address: str, compressed: CompressedFrame, *, offset_us: int = 0, wanted: tuple[str, ...] = ("right",)
) -> SubscribedFrame:
    """Stream one frame captured at EPOCH_US + offset_us, and give what a subscriber gets."""
    with Client(address) as client:
        pictures = await asyncio.to_thread(client.subscribe, "rig")
        async with CameraNode.connect(address) as node:
            await node.open(camera_open(compressed, side_information_streams=wanted))
            await node.send(1, compressed, offset_us=offset_us)
            return await asyncio.to_thread(next, pictures)


async def test_the_nearest_serves(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame, tiny_decoder: FrameDecoder
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=LONG_MS))
    black = np.zeros_like(side_picture)
    async with SideNode.connect(address) as side:
        await side.open(side_open(side_picture))
        await side.send(1, black, EPOCH_US)
        await side.send(2, side_picture, EPOCH_US + 40_000)
        await side.send(3, black, EPOCH_US + 80_000)
        decoded = await decode_one(address, compressed, offset_us=50_000)
    use = decoded.side_information
    assert (use.outcome, use.stream) == ("paired", "right")
    assert (use.capture_time_us, use.offset_us) == (EPOCH_US + 40_000, -10_000)
    np.testing.assert_array_equal(decoded.image, tiny_decoder.decode(compressed, side_picture))


async def test_beyond_the_tolerance_none_serves(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame, tiny_decoder: FrameDecoder
) -> None:
    # The held frame is later than the wanted one, so the long wait ends at once.
    address = address_of(await start_decoder(pair_wait_ms=LONG_MS, pair_tolerance_ms=10))
    async with SideNode.connect(address) as side:
        await side.open(side_open(side_picture))
        await side.send(1, side_picture, EPOCH_US + 10_001)
        decoded = await decode_one(address, compressed)
        assert decoded.side_information.outcome == "absent"
        np.testing.assert_array_equal(decoded.image, tiny_decoder.decode(compressed))
        await side.send(2, side_picture, EPOCH_US + 100_000)
        again = await decode_one(address, compressed, offset_us=110_000 - 20_000)
        assert (again.side_information.outcome, again.side_information.offset_us) == ("paired", 10_000)


async def test_a_frame_waits_for_its_side_information(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=LONG_MS))
    async with SideNode.connect(address) as side:
        await side.open(side_open(side_picture))
        await side.send(1, side_picture, EPOCH_US - 20_000)  # near enough, but something nearer may come
        waiting = asyncio.create_task(decode_one(address, compressed))
        await until(address, lambda streams: "left" in streams and streams["left"].received == 1)
        assert not waiting.done()
        await side.send(2, side_picture, EPOCH_US)
        decoded = await waiting
    assert (decoded.side_information.outcome, decoded.side_information.offset_us) == ("paired", 0)


async def test_side_information_that_comes_too_late(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=20))
    async with SideNode.connect(address) as side:
        await side.open(side_open(side_picture))
        decoded = await decode_one(address, compressed)
        await side.send(1, side_picture, EPOCH_US)
    assert decoded.side_information.outcome == "absent"
    assert decoded.decode_us >= 20_000


async def test_an_earlier_frame_serves_when_the_wait_is_over(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=20))
    async with SideNode.connect(address) as side:
        await side.open(side_open(side_picture))
        await side.send(1, side_picture, EPOCH_US - 30_000)
        decoded = await decode_one(address, compressed)
    assert (decoded.side_information.outcome, decoded.side_information.offset_us) == ("paired", -30_000)


async def test_waits_do_not_add_up(start_decoder: StartDecoder, compressed: CompressedFrame) -> None:
    address = address_of(await start_decoder(pair_wait_ms=500))
    loop = asyncio.get_running_loop()
    async with CameraNode.connect(address) as node:
        await node.open(camera_open(compressed, side_information_streams=["nobody"]))
        began = loop.time()
        for sequence in (1, 2, 3, 4):
            await node.send(sequence, compressed)
        await node.finish()
        assert 0.45 < loop.time() - began < 1.9


async def test_none_asked_for(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=LONG_MS))
    async with SideNode.connect(address) as side:
        await side.open(side_open(side_picture))
        await side.send(1, side_picture, EPOCH_US)
        decoded = await decode_one(address, compressed, wanted=())
    assert decoded.side_information.outcome == "not_requested"


async def test_another_size_is_not_used(
    start_decoder: StartDecoder, compressed: CompressedFrame, tiny_decoder: FrameDecoder
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=LONG_MS))
    larger = np.full((32, 40, 3), 200, np.uint8)
    async with SideNode.connect(address) as side:
        await side.open(side_open(larger))
        await side.send(1, larger, EPOCH_US)
        with capture_logs() as logs:
            async with CameraNode.connect(address) as node:
                await node.open(camera_open(compressed, side_information_streams=["right"]))
                await node.send(1, compressed, offset_us=0)
                await node.send(2, compressed, offset_us=0)
                await node.finish()
            decoded = await decode_one(address, compressed)
    assert decoded.side_information.outcome == "absent"
    np.testing.assert_array_equal(decoded.image, tiny_decoder.decode(compressed))
    warnings = [log for log in logs if log["event"] == "side information of another size is not used"]
    assert len(warnings) == 2, "once for each session, not for each frame"
    assert (warnings[0]["width"], warnings[0]["height"]) == (40, 32)


async def test_streams_are_preferred_in_order(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=50))
    async with SideNode.connect(address) as first, SideNode.connect(address) as second:
        await first.open(side_open(side_picture, camera="first"))
        await second.open(side_open(side_picture, camera="second"))
        await first.send(1, side_picture, EPOCH_US + 30_000)
        await second.send(1, side_picture, EPOCH_US)
        decoded = await decode_one(address, compressed, wanted=("first", "second"))
        assert (decoded.side_information.stream, decoded.side_information.offset_us) == ("first", 30_000)
        await second.send(2, side_picture, EPOCH_US + 500_000)
        later = await decode_one(address, compressed, offset_us=500_000, wanted=("first", "second"))
        assert later.side_information.stream == "second"


async def test_an_attached_source_serves(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    side_picture: Frame,
    tiny_decoder: FrameDecoder,
    tmp_path: Path,
) -> None:
    for number in range(2):
        write_image(tmp_path / f"{number}.png", side_picture)
    address = address_of(
        await start_decoder(
            pair_wait_ms=LONG_MS,
            attach=(f"rig/right={tmp_path}",),
            attach_epoch=EPOCH_US / 1e6,
            attach_fps=50,
        )
    )
    decoded = await decode_one(address, compressed, offset_us=20_000)
    assert (decoded.side_information.outcome, decoded.side_information.offset_us) == ("paired", 0)
    np.testing.assert_array_equal(decoded.image, tiny_decoder.decode(compressed, side_picture))
    right = (await streams(address))["right"]
    assert right.kind == STREAM_KIND_SIDE_INFORMATION
    assert (right.received, right.decoded) == (2, 2)


async def test_a_missing_attached_source_is_one_line(start_decoder: StartDecoder, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere"):
        await start_decoder(attach=(f"rig/right={tmp_path / 'nowhere'}",))


async def test_frames_do_not_outlive_their_session(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    decoder = await start_decoder(pair_wait_ms=20)
    address = address_of(decoder)
    async with SideNode.connect(address) as former:
        await former.open(side_open(side_picture))
        await former.send(1, side_picture, EPOCH_US)
        await former.finish()
    assert decoder.store.held_frames("rig", "right") == 1
    async with SideNode.connect(address) as later:
        await later.open(side_open(side_picture))
        decoded = await decode_one(address, compressed)
        assert decoded.side_information.outcome == "absent"


def attached(folder: Path, image: Frame) -> AttachedSource:
    """Two frames, as fast as they can be read."""
    for number in range(2):
        write_image(folder / f"{number}.png", image)
    return AttachedSource("rig", "right", open_source(str(folder), epoch_us=EPOCH_US, realtime=False))


def hub() -> Hub:
    return Hub(capacity_frames=2, max_subscribers=1, metrics=DecoderMetrics(max_streams=1))


def await_reader() -> None:
    """Wait until the attached source has been read; its frames then wait for the event loop."""
    for thread in threading.enumerate():
        if thread.name == "source-right":
            thread.join(10)


async def test_an_attached_source_begins_anew(tmp_path: Path, side_picture: Frame) -> None:
    registry = StreamRegistry(2)
    store = SideInformationStore(capacity_frames=9, capacity_bytes=1 << 20)
    store.put("rig", "right", SideFrame(side_picture, EPOCH_US + 1_000_000))
    source = attached(tmp_path, side_picture)
    source.start(registry, store, hub())
    await_reader()
    await asyncio.sleep(0)
    assert source.account.decoded == 2
    assert store.held_frames("rig", "right") == 2


async def test_an_attached_source_gives_way_to_a_node(tmp_path: Path, side_picture: Frame) -> None:
    registry = StreamRegistry(2)
    store = SideInformationStore(capacity_frames=9, capacity_bytes=1 << 20)
    source = attached(tmp_path, side_picture)
    source.start(registry, store, hub())
    await_reader()
    registry.open(Account(source.account.key, secrets.token_bytes(16), 40, 24), source)
    await asyncio.sleep(0)
    assert store.held_frames("rig", "right") == 0


async def test_a_stalled_stream_is_waited_for_once(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    wait_us = 800_000
    address = address_of(await start_decoder(pair_wait_ms=wait_us // 1000))
    async with (
        SideNode.connect(address) as side,
        subscribed(address, format=RAW) as pictures,
        CameraNode.connect(address) as node,
    ):
        await side.open(side_open(side_picture))
        await side.send(1, side_picture, EPOCH_US + 60_000)
        await node.open(camera_open(compressed, side_information_streams=["right"]))
        waits = []
        for sequence in (1, 2, 3, 4):
            await node.send(sequence, compressed)
            decoded = await picture_of(pictures)
            waits.append(decoded.decode_us >= wait_us)
            outcome = PAIRED if sequence == 1 else ABSENT
            assert decoded.side_information.outcome == outcome
        assert waits == [True, False, False, False]
        await side.send(2, side_picture, EPOCH_US + 300_000)  # it is back, but behind
        await node.send(5, compressed)
        await until(address, lambda streams: streams["left"].received == 5)
        await side.send(3, side_picture, EPOCH_US + 500_000)
        decoded = await picture_of(pictures)
    assert (decoded.side_information.outcome, decoded.side_information.offset_us) == (PAIRED, 0)


async def test_a_clock_that_steps(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=LONG_MS))
    hour_us = 3_600_000_000
    async with SideNode.connect(address) as side:
        await side.open(side_open(side_picture))
        await side.send(1, side_picture, EPOCH_US + hour_us)
        ahead = await decode_one(address, compressed, offset_us=100_000)
        assert ahead.side_information.outcome == "absent", "and at once"
        await side.send(2, side_picture, EPOCH_US + 100_000)
        waiting = asyncio.create_task(decode_one(address, compressed, offset_us=200_000))
        await until(address, lambda streams: streams["left"].received == 1 and not streams["left"].decoded)
        await side.send(3, side_picture, EPOCH_US + 210_000)
        back = await waiting
    assert (back.side_information.outcome, back.side_information.offset_us) == ("paired", 10_000)


async def test_side_information_out_of_order(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame, tiny_decoder: FrameDecoder
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=LONG_MS))
    black = np.zeros_like(side_picture)
    async with SideNode.connect(address) as side:
        await side.open(side_open(side_picture))
        for sequence, (image, offset_us) in enumerate(
            [(black, 40_000), (side_picture, 0), (black, -40_000), (black, 100_000)], start=1
        ):
            await side.send(sequence, image, EPOCH_US + offset_us)
        decoded = await decode_one(address, compressed)
    assert (decoded.side_information.outcome, decoded.side_information.offset_us) == ("paired", 0)
    np.testing.assert_array_equal(decoded.image, tiny_decoder.decode(compressed, side_picture))


async def test_cameras_share_side_information(
    start_decoder: StartDecoder, compressed: CompressedFrame, side_picture: Frame
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=LONG_MS))
    cameras = ["a", "b", "c"]
    async with AsyncExitStack() as stack:
        side = await stack.enter_async_context(SideNode.connect(address))
        await side.open(side_open(side_picture))
        pictures = await stack.enter_async_context(subscribed(address, format=RAW))
        for camera in cameras:
            node = await stack.enter_async_context(CameraNode.connect(address))
            await node.open(camera_open(compressed, camera=camera, side_information_streams=["right"]))
            await node.send(1, compressed)
        await until(address, lambda streams: all(streams[name].received == 1 for name in cameras))
        await side.send(1, side_picture, EPOCH_US + 100_000)
        got = [await picture_of(pictures) for _ in cameras]
    assert sorted(frame.camera for frame in got) == cameras
    assert {frame.side_information.outcome for frame in got} == {PAIRED}
    assert {frame.side_information.stream for frame in got} == {"right"}


async def test_a_cameras_pictures_serve_another_camera(
    start_decoder: StartDecoder, compressed: CompressedFrame, tiny_decoder: FrameDecoder
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=LONG_MS))
    async with (
        subscribed(address, format=RAW) as pictures,
        CameraNode.connect(address) as first,
        CameraNode.connect(address) as second,
    ):
        await second.open(camera_open(compressed, camera="second", side_information_streams=["first"]))
        await second.send(1, compressed)
        await first.open(camera_open(compressed, camera="first"))
        await first.send(1, compressed)
        alone, helped = await picture_of(pictures), await picture_of(pictures)
    assert (alone.camera, helped.camera) == ("first", "second")
    assert (helped.side_information.outcome, helped.side_information.stream) == (PAIRED, "first")
    expected = tiny_decoder.decode(compressed, from_image(alone.image, max_pixels=10_000))
    np.testing.assert_array_equal(from_image(helped.image, max_pixels=10_000), expected)


async def test_two_cameras_that_name_each_other_both_go_on(
    start_decoder: StartDecoder, compressed: CompressedFrame
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=200))
    async with (
        subscribed(address, format=RAW) as pictures,
        CameraNode.connect(address) as a,
        CameraNode.connect(address) as b,
    ):
        await a.open(camera_open(compressed, camera="a", side_information_streams=["b"]))
        await b.open(camera_open(compressed, camera="b", side_information_streams=["a"]))
        for sequence in (1, 2, 3):
            await a.send(sequence, compressed)
            await b.send(sequence, compressed)
            assert {(await picture_of(pictures)).camera for _ in range(2)} == {"a", "b"}
