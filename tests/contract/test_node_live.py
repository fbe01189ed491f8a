"""A live camera node on one call: order, credit, drops, batches, errors of single frames, and both roles."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from encoder_service.camera import CameraRole
from encoder_service.uplink import SessionError, TooLargeError
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.errors import GeometryError
from ndsc.codec.frames import decode_image, encode_image, write_image
from ndsc.sources import SourceError
from ndsc.v1 import types_pb2
from ndsc.v1.types_pb2 import Credit
from tests.contract.encoder_peer import (
    AMPLE,
    EPOCH_US,
    HEIGHT,
    NONE,
    PATIENCE_S,
    WIDTH,
    Nodes,
    Peer,
    ScriptedSource,
    checked,
    picture,
    quietly,
    run,
)

LIVE: dict[str, Any] = {"source": "camera:x", "pace": "realtime", "max_age_ms": 60_000}


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

    opened = peer.call.open
    assert (opened.rig, opened.camera, opened.frame_id) == ("car", "front", "front_optical")
    assert len(opened.session_id) == 16
    assert opened.bitstream_id == tiny_bundle.bitstream_id
    assert opened.delivery == types_pb2.DELIVERY_LIVE
    assert opened.clock == types_pb2.CLOCK_SYNTHETIC
    assert (opened.geometry.width, opened.geometry.height) == (WIDTH, HEIGHT)
    assert list(opened.side_information_streams) == ["right", "rear"]
    assert opened.next_sequence == 1

    assert peer.call.sequences == list(range(1, 11))
    assert [frame.capture_time_us for frame in peer.frames] == [
        1_769_860_800_000_000 + 40_000 * number for number in range(10)
    ]
    assert all(frame.message.dropped_before == 0 for frame in peer.frames)
    assert all(frame.message.rate_level == 2 for frame in peer.frames)
    encoder = FrameEncoder(tiny_bundle)
    payloads = [frame.message.payload for frame in peer.frames]
    assert payloads == [encoder.encode(picture(number), 2).payload for number in range(10)]
    assert peer.call.half_closed

    assert summary["captured"] == summary["sent"] == 10
    assert summary["failed"] == summary["dropped"] == 0
    assert summary["payload_bytes"] == sum(map(len, payloads))
    assert summary["encode_ms"] > 0
    assert summary["session"] == opened.session_id.hex()
    assert (len(peer.calls), summary["calls"]) == (1, 1)


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
    opened = peer.call.open
    assert (opened.rig, opened.camera, opened.clock) == ("rig", "right", types_pb2.CLOCK_PTP)
    assert (opened.geometry.width, opened.geometry.height) == (WIDTH, HEIGHT)
    assert opened.delivery == types_pb2.DELIVERY_LIVE
    assert peer.call.sequences == [1, 2, 3]
    images = [frame.message.image for frame in peer.frames]
    for number, (frame, image) in enumerate(zip(peer.frames, images, strict=True)):
        assert frame.capture_time_us == EPOCH_US + 500_000 + 100_000 * number
        assert (image.width, image.height) == (WIDTH, HEIGHT)
        if image_format == "raw":
            pixels = np.frombuffer(image.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
            expected = picture(number)
        else:
            pixels = decode_image(image.data)
            expected = decode_image(encode_image(picture(number), image_format))
        np.testing.assert_array_equal(pixels, expected)
    assert summary["sent"] == 3
    assert summary["payload_bytes"] == sum(image.ByteSize() for image in images)


async def test_no_more_frames_are_in_flight_than_the_credit_allows(
    peer: Peer, folder: Path, make_node: Nodes
) -> None:
    peer.credit, peer.ack_each = Credit(max_frames=3, max_bytes=1 << 20), False
    work = asyncio.create_task(run(make_node(peer, folder)))
    await peer.until_frames(3)
    for acked, frames, count in ((0, 3, 3), (1, 3, 4), (2, 5, 7)):
        await peer.call.ack(acked, Credit(max_frames=frames, max_bytes=1 << 20))
        await peer.until_frames(count)
        await peer.until_idle()
        assert len(peer.frames) == count
    peer.ack_each = True
    await peer.call.ack(7)
    summary = await work
    assert (summary["captured"], summary["sent"], summary["dropped"]) == (10, 10, 0)


@pytest.mark.parametrize("batch_frames", [1, 3])
async def test_no_more_bytes_are_in_flight_than_the_credit_allows(
    peer: Peer, folder: Path, make_node: Nodes, tiny_bundle: Bundle, batch_frames: int
) -> None:
    sizes = [len(FrameEncoder(tiny_bundle).encode(picture(number)).payload) for number in range(10)]
    three_but_for_one_byte = sum(sizes[:3]) - 1
    peer.credit, peer.ack_each = Credit(max_frames=10, max_bytes=three_but_for_one_byte), False
    work = asyncio.create_task(run(make_node(peer, folder, batch_frames=batch_frames)))
    await peer.until_frames(1)
    await peer.until_idle()
    assert sum(len(frame.message.payload) for frame in peer.frames) <= three_but_for_one_byte
    peer.ack_each = True
    await peer.call.ack(len(peer.frames), peer.credit)
    assert (await work)["sent"] == 10


async def test_without_credit_the_oldest_frames_give_way_and_are_counted(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    one = Credit(max_frames=1, max_bytes=1 << 20)
    peer.credit = NONE
    work = asyncio.create_task(run(make_node(peer, **LIVE, queue_frames=2)))
    await scripted.give(5)
    await peer.until_calls(1)
    await peer.until_idle()
    assert peer.frames == []
    peer.credit = one
    await peer.call.ack(0, one)
    await peer.until_frames(2)
    peer.ack_each = False
    await scripted.give(1)
    await peer.until_frames(3)
    await scripted.give(4)
    peer.ack_each = True
    await peer.call.ack(3)
    await peer.until_frames(5)
    scripted.close()
    summary = await work
    assert peer.call.sequences == [1, 2, 3, 4, 5]
    assert [frame.number for frame in peer.frames] == [3, 4, 5, 8, 9]
    assert [frame.message.dropped_before for frame in peer.frames] == [3, 0, 0, 2, 0]
    assert (summary["captured"], summary["sent"], summary["dropped"]) == (10, 5, 5)


async def test_frames_that_waited_too_long_are_dropped_and_counted(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.credit = NONE
    node = make_node(peer, **(LIVE | {"queue_frames": 4, "max_age_ms": 50}))
    work = asyncio.create_task(run(node))
    await peer.until_calls(1)
    await scripted.give(3)
    await peer.until_idle()  # 100 ms
    peer.credit = AMPLE
    await peer.call.ack(0)
    await peer.until_idle()
    await scripted.give(1)
    await peer.until_frames(1)
    scripted.close()
    summary = await work
    assert [frame.number for frame in peer.frames] == [3]
    assert peer.frames[0].message.dropped_before == 3
    assert (summary["captured"], summary["sent"], node.account.drops) == (4, 1, {"age": 3})


async def test_frames_left_out_to_hold_a_rate_are_counted(peer: Peer, folder: Path, make_node: Nodes) -> None:
    summary = await run(make_node(peer, folder, fps=10, loop=True, limit=40, target_kbps=0.5))
    assert 0 < summary["sent"] < 20
    assert summary["sent"] + summary["dropped"] == 40
    told = sum(frame.message.dropped_before for frame in peer.frames)
    after_the_last = 40 - 1 - round((peer.frames[-1].capture_time_us - peer.frames[0].capture_time_us) / 1e5)
    assert told == summary["dropped"] - after_the_last
    assert sum(frame.message.ByteSize() for frame in peer.frames) * 8 / 4 == pytest.approx(500, rel=0.25)


async def test_several_frames_share_a_message(peer: Peer, folder: Path, make_node: Nodes) -> None:
    summary = await run(make_node(peer, folder, batch_frames=4, epoch=1_700_000_000))
    assert peer.call.messages == [4, 4, 2]
    assert peer.call.sequences == list(range(1, 11))
    assert [frame.number for frame in peer.frames] == list(range(0, 1000, 100))
    assert summary["sent"] == 10


async def test_a_batch_is_no_larger_than_the_credit(peer: Peer, folder: Path, make_node: Nodes) -> None:
    peer.credit = Credit(max_frames=3, max_bytes=1 << 20)
    await run(make_node(peer, folder, batch_frames=4))
    assert max(peer.call.messages) == 3
    assert peer.call.sequences == list(range(1, 11))


async def test_frames_that_still_wait_at_the_end_are_counted_as_dropped(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.credit = NONE
    node = make_node(peer, **LIVE)
    work = asyncio.create_task(run(node))
    await peer.until_calls(1)
    await scripted.give(5)
    node.stop()
    summary = await work
    assert (summary["captured"], summary["sent"], summary["dropped"]) == (5, 0, 5)
    assert peer.call.half_closed


async def test_a_decoder_that_takes_no_frame_after_the_source_ended_is_reported(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.credit = NONE
    node = make_node(peer, "x", drain_seconds=0.3)
    work = asyncio.create_task(run(node))
    await scripted.give(2)
    scripted.close()
    with pytest.raises(SessionError, match=r"took no frame for 0\.3 s"):
        await work
    summary = checked(node)
    assert (summary["captured"], summary["dropped"]) == (2, 2)


async def test_pace_credit_loses_nothing_with_a_slow_decoder(
    peer: Peer, folder: Path, make_node: Nodes
) -> None:
    peer.credit = Credit(max_frames=1, max_bytes=1 << 20)
    summary = await run(make_node(peer, folder, queue_frames=1, loop=True, limit=30, max_age_ms=1))
    assert peer.call.sequences == list(range(1, 31))
    assert (summary["sent"], summary["dropped"]) == (30, 0)


async def test_a_frame_beyond_every_credit_is_dropped_and_told_with_the_next(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.credit = NONE
    node = make_node(peer, **LIVE, queue_frames=1)
    with capture_logs() as logs:
        work = asyncio.create_task(run(node))
        await peer.until_calls(1)
        await scripted.give(3)
        await peer.call.ack(0, Credit(max_frames=4, max_bytes=10))
        await peer.until_idle()
        peer.credit = AMPLE
        await peer.call.ack(0)
        await peer.until_idle()
        await scripted.give(1)
        scripted.close()
        summary = await work
    assert [(frame.sequence, frame.message.dropped_before) for frame in peer.frames] == [(2, 3)]
    assert (summary["captured"], summary["sent"]) == (4, 1)
    assert node.account.drops == {"queue": 2, "too_large": 1}
    [warning] = [log for log in logs if log["event"] == "frame dropped"]
    assert "beyond the 10 bytes" in warning["reason"]


async def test_a_frame_beyond_every_credit_is_an_error_when_none_may_be_lost(
    peer: Peer, folder: Path, make_node: Nodes
) -> None:
    peer.credit = Credit(max_frames=4, max_bytes=10)
    node = make_node(peer, folder)
    with pytest.raises(TooLargeError, match="beyond the 10 bytes"):
        await run(node)
    assert checked(node)["sent"] == 0


async def test_errors_of_single_frames_are_counted_and_the_stream_goes_on(
    peer: Peer, folder: Path, make_node: Nodes
) -> None:
    peer.ack_each = False
    work = asyncio.create_task(run(make_node(peer, folder)))
    await peer.until_frames(10)
    for sequence in (2, 2, 5, 11):  # said twice, and one that was never sent: each frame fails once
        await peer.call.refuse_frame(sequence, types_pb2.ERROR_REASON_PAYLOAD_CORRUPT)
    await peer.call.ack(10)
    summary = await work
    assert (summary["sent"], summary["acked"], summary["failed"]) == (10, 10, 2)


async def test_an_idle_node_sends_heartbeats(peer: Peer, scripted: ScriptedSource, make_node: Nodes) -> None:
    work = asyncio.create_task(run(make_node(peer, **LIVE)))
    await peer.until(lambda: peer.calls != [] and peer.call.heartbeats >= 3)
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
    assert peer.call.half_closed


async def test_a_frame_size_that_the_bundle_cannot_code_is_refused_before_the_session(
    peer: Peer, tmp_path: Path, make_node: Nodes
) -> None:
    write_image(tmp_path / "wide.png", np.zeros((1, 4000, 3), np.uint8))
    with pytest.raises(GeometryError, match="4000x1"):
        await run(make_node(peer, tmp_path))
    assert peer.attempts == 0


async def test_plaintext_to_another_machine_is_warned_of(peer: Peer, folder: Path, make_node: Nodes) -> None:
    address = peer.address.replace("127.0.0.1", "0.0.0.0")  # connects to this machine all the same
    with capture_logs() as logs:
        await run(make_node(peer, folder, decoder=address, limit=1, allow_plaintext_beyond_loopback=True))
    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert [log["decoder"] for log in warnings] == [address]


async def test_a_node_cancelled_with_a_frame_in_hand_accounts_for_it(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    coding, go_on = threading.Event(), threading.Event()

    def stand_still(*_: Any) -> None:
        coding.set()
        go_on.wait(PATIENCE_S)

    monkeypatch.setattr(CameraRole, "code", stand_still)
    node = make_node(peer, **LIVE)
    work = asyncio.create_task(node.run(quietly))
    await scripted.give(1)
    assert await asyncio.to_thread(coding.wait, PATIENCE_S)
    work.cancel()
    await asyncio.wait({work})
    go_on.set()
    scripted.close()
    assert checked(node)["dropped"] == 1
