"""Side information of stored frames: on disk, late, from a clock that steps, from other cameras, and bounded."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from decoder_service.archive import Archive
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.frames import Frame
from ndsc.service.images import from_image, to_image
from ndsc.service.timestamps import to_timestamp
from ndsc.v1 import types_pb2
from ndsc.v1.decode_pb2 import DecodedFrame
from ndsc.v1.frame_stream_pb2 import Open
from ndsc.v1.side_information_pb2 import (
    SideInformationFrame,
    SideInformationOpen,
    StreamSideInformationRequest,
)
from tests.contract.conftest import MakeGate, StartDecoder, address_of, small_archive, stop
from tests.contract.decoder_node import (
    ARCHIVE,
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

LONG_MS = 600_000
"""A wait that no test sits out."""

PAIRED = types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED
ABSENT = types_pb2.SIDE_INFORMATION_OUTCOME_ABSENT


def archive_open(compressed: CompressedFrame, **fields: Any) -> Open:
    return camera_open(compressed, **({"delivery": ARCHIVE, "side_information_streams": ["right"]} | fields))


async def store_frame(address: str, request: Open, frame: CompressedFrame, offset_us: int = 0) -> None:
    """Send one frame captured at EPOCH_US + offset_us in a call of its own, and have it acknowledged."""
    async with CameraNode.connect(address) as node:
        opened = await node.resume(request)
        await node.send(opened.next_sequence, frame, offset_us=offset_us)
        await node.finish()


async def send_side(address: str, request: SideInformationOpen, image: Frame, *times_us: int) -> None:
    """Send an image with each of these capture times in a call of its own."""
    async with SideNode.connect(address) as side:
        opened = (await side.open(request)).opened
        for sequence, time_us in enumerate(times_us, start=opened.next_sequence):
            assert (await side.send(sequence, image, time_us)).ack.up_to_sequence == sequence
        await side.finish()


def assert_made_with(
    frame: DecodedFrame, decoder: FrameDecoder, compressed: CompressedFrame, side: Frame | None
) -> None:
    assert frame.side_information.outcome == (ABSENT if side is None else PAIRED)
    image = from_image(frame.image, max_pixels=10_000)
    np.testing.assert_array_equal(image, decoder.decode(compressed, side))


@pytest.mark.parametrize("delivery", [ARCHIVE, types_pb2.DELIVERY_LIVE], ids=["archive", "live"])
async def test_side_information_is_found_on_disk_after_a_restart(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    side_picture: Frame,
    tiny_decoder: FrameDecoder,
    tmp_path: Path,
    delivery: types_pb2.Delivery,
) -> None:
    decoder = await start_decoder(archive=tmp_path, archive_pair_wait_ms=LONG_MS)
    black = np.zeros_like(side_picture)
    request = side_open(side_picture, delivery=delivery)
    await send_side(address_of(decoder), request, black, EPOCH_US - 20_000)
    await send_side(address_of(decoder), request, side_picture, EPOCH_US + 10_000)
    await send_side(address_of(decoder), request, black, EPOCH_US + 60_000)
    await stop(decoder)
    decoder = await start_decoder(archive=tmp_path, archive_pair_wait_ms=LONG_MS)
    assert decoder.store.frames == 0
    async with subscribed(address_of(decoder), format=RAW) as pictures:
        await store_frame(address_of(decoder), archive_open(compressed), compressed)
        frame = await picture_of(pictures)
    assert_made_with(frame, tiny_decoder, compressed, side_picture)
    assert (frame.side_information.stream, frame.side_information.offset_us) == ("right", 10_000)


async def test_side_information_is_stored_before_it_is_acknowledged(
    start_decoder: StartDecoder, side_picture: Frame, make_gate: MakeGate, tmp_path: Path
) -> None:
    address = address_of(await start_decoder(archive=tmp_path))
    gate = make_gate(Archive, "put_side")
    async with SideNode.connect(address) as side:
        await side.open(side_open(side_picture, delivery=ARCHIVE))
        sent = asyncio.create_task(side.send(1, side_picture, EPOCH_US))
        await gate.wait_until_reached()
        assert (await streams(address))["right"].decoded == 0
        assert not sent.done()
        gate.open()
        assert (await sent).ack.up_to_sequence == 1


async def test_a_side_session_goes_on_after_a_restart(
    start_decoder: StartDecoder, side_picture: Frame, tmp_path: Path
) -> None:
    decoder = await start_decoder(archive=tmp_path)
    request = side_open(side_picture, delivery=ARCHIVE)
    await send_side(address_of(decoder), request, side_picture, EPOCH_US, EPOCH_US + 1)
    await stop(decoder)
    address = address_of(await start_decoder(archive=tmp_path))
    async with SideNode.connect(address) as side:
        opened = (await side.open(request)).opened
        assert (opened.next_sequence, opened.resumed) == (3, True)
    async with SideNode.connect(address) as side:
        opened = (await side.open(side_open(side_picture, delivery=ARCHIVE))).opened
        assert (opened.next_sequence, opened.resumed) == (1, False)


async def test_a_stored_frame_waits_for_late_side_information(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    side_picture: Frame,
    tiny_decoder: FrameDecoder,
    tmp_path: Path,
) -> None:
    address = address_of(await start_decoder(archive=tmp_path, archive_pair_wait_ms=LONG_MS, pair_wait_ms=0))
    request = side_open(side_picture)
    async with subscribed(address, format=RAW) as pictures:
        await send_side(address, request, np.zeros_like(side_picture), EPOCH_US - 30_000)
        await store_frame(address, archive_open(compressed), compressed)
        assert (await streams(address))["left"].waiting == 1
        await send_side(address, request, side_picture, EPOCH_US)
        assert_made_with(await picture_of(pictures), tiny_decoder, compressed, side_picture)


async def test_a_stored_frame_does_not_wait_for_ever(
    start_decoder: StartDecoder, compressed: CompressedFrame, tiny_decoder: FrameDecoder, tmp_path: Path
) -> None:
    address = address_of(await start_decoder(archive=tmp_path, archive_pair_wait_ms=200, pair_wait_ms=0))
    async with subscribed(address, format=RAW) as pictures:
        await store_frame(address, archive_open(compressed), compressed)
        frame = await picture_of(pictures)
    assert_made_with(frame, tiny_decoder, compressed, None)
    assert frame.decode_us >= 190_000


async def test_a_clock_that_was_ahead_for_a_while_ends_no_later_wait(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    side_picture: Frame,
    tiny_decoder: FrameDecoder,
    tmp_path: Path,
) -> None:
    address = address_of(await start_decoder(archive=tmp_path, archive_pair_wait_ms=LONG_MS))
    request = side_open(side_picture)
    hour_us = 3_600_000_000
    async with subscribed(address, format=RAW) as pictures:
        await send_side(address, request, side_picture, EPOCH_US - 200_000, EPOCH_US + hour_us)
        await send_side(address, request, side_picture, EPOCH_US - 100_000)
        await store_frame(address, archive_open(compressed), compressed)
        assert (await streams(address))["left"].waiting == 1
        await send_side(address, request, side_picture, EPOCH_US)
        assert_made_with(await picture_of(pictures), tiny_decoder, compressed, side_picture)


async def test_decoded_pictures_serve_another_camera_after_a_restart_too(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    tiny_decoder: FrameDecoder,
    held_decoder: threading.Event,
    tmp_path: Path,
) -> None:
    decoder = await start_decoder(archive=tmp_path, archive_pair_wait_ms=LONG_MS)
    first = archive_open(compressed, camera="first", side_information_streams=[])
    second = archive_open(compressed, camera="second", side_information_streams=["first"])
    await store_frame(address_of(decoder), second, compressed)
    await store_frame(address_of(decoder), first, compressed)
    await stop(decoder)
    held_decoder.set()
    decoder = await start_decoder(warm=False, archive=tmp_path, archive_pair_wait_ms=LONG_MS)
    async with subscribed(address_of(decoder), format=RAW) as pictures:
        await decoder.warm_up()
        alone, helped = await picture_of(pictures), await picture_of(pictures)
    assert (alone.camera, helped.camera) == ("first", "second")
    assert_made_with(helped, tiny_decoder, compressed, from_image(alone.image, max_pixels=10_000))
    await stop(decoder)
    # What was decoded is on disk for frames that come later.
    decoder = await start_decoder(archive=tmp_path, archive_pair_wait_ms=LONG_MS)
    async with subscribed(address_of(decoder), format=RAW) as pictures:
        await store_frame(address_of(decoder), second, compressed)
        later = await picture_of(pictures)
    assert_made_with(later, tiny_decoder, compressed, from_image(alone.image, max_pixels=10_000))


async def test_two_cameras_that_name_each_other_both_go_on(
    start_decoder: StartDecoder, compressed: CompressedFrame, tmp_path: Path
) -> None:
    address = address_of(await start_decoder(archive=tmp_path, archive_pair_wait_ms=300))
    for camera, other in (("a", "b"), ("b", "a")):
        request = archive_open(compressed, camera=camera, side_information_streams=[other])
        for offset_us in (0, 100_000):
            await store_frame(address, request, compressed, offset_us)
    await until(address, lambda streams: all(stream.decoded == 2 for stream in streams.values()))


async def test_side_information_and_a_full_archive(
    start_decoder: StartDecoder, side_picture: Frame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_archive(monkeypatch, 1)
    address = address_of(await start_decoder(archive=tmp_path))
    with capture_logs() as logs:
        async with SideNode.connect(address) as side:
            await side.open(side_open(side_picture))
            for sequence in (1, 2, 3):
                assert (await side.send(sequence, side_picture, EPOCH_US)).ack.up_to_sequence == sequence
        assert [log["event"] for log in logs].count("side information not stored") == 1
        request = side_open(side_picture, delivery=ARCHIVE)
        message = SideInformationFrame(
            sequence=1,
            capture_time=to_timestamp(EPOCH_US),
            image=to_image(side_picture, types_pb2.IMAGE_FORMAT_PNG),
        )
        async with SideNode.connect(address) as side:
            await side.open(request)
            await side.write(StreamSideInformationRequest(frame=message))
            assert await side.refusal() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
    async with SideNode.connect(address) as side:
        assert (await side.open(request)).opened.next_sequence == 1


async def test_held_bytes_are_bounded_and_the_disk_has_the_rest(
    start_decoder: StartDecoder, tmp_path: Path
) -> None:
    decoder = await start_decoder(archive=tmp_path, side_information_capacity_mbytes=8)
    image = np.zeros((1024, 1024, 3), np.uint8)  # 3 MiB
    request = side_open(image, delivery=ARCHIVE)
    await send_side(address_of(decoder), request, image, *(EPOCH_US + n for n in range(4)))
    assert decoder.store.frames == 2
    assert decoder.store.held_bytes == 2 * image.nbytes
