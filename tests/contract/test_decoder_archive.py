"""ARCHIVE: a frame is stored, then acknowledged, then decoded; restarts, failures and a full archive."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from decoder_service.archive import Archive
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder, Indices
from ndsc.codec.frames import Frame
from ndsc.service.images import from_image
from ndsc.service.sqlite import StoreError
from ndsc.v1.frame_stream_pb2 import Open
from tests.contract.conftest import MakeGate, StartDecoder, address_of, small_archive, stop
from tests.contract.decoder_node import (
    ARCHIVE,
    EPOCH_US,
    RAW,
    CameraNode,
    SideNode,
    acks,
    camera_open,
    counts,
    errors,
    events,
    frame_message,
    picture_of,
    side_open,
    streams,
    subscribed,
    until,
)

FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")


def archive_open(compressed: CompressedFrame, **fields: Any) -> Open:
    return camera_open(compressed, delivery=ARCHIVE, **fields)


async def store_frames(address: str, request: Open, *frames: CompressedFrame) -> None:
    """Send frames 1, 2, … in a call of their own, and have them acknowledged."""
    async with CameraNode.connect(address) as node:
        await node.resume(request)
        await node.send_together(*(frame_message(0, frame) for frame in frames))
        assert acks(await node.finish()) == list(range(1, len(frames) + 1))


async def test_an_ack_comes_after_the_commit(
    start_decoder: StartDecoder, compressed: CompressedFrame, make_gate: MakeGate, tmp_path: Path
) -> None:
    address = address_of(await start_decoder(archive=tmp_path / "archive"))
    gate = make_gate(Archive, "store")
    async with CameraNode.connect(address) as node:
        await node.resume(archive_open(compressed))
        await node.send(1, compressed)
        await gate.wait_until_reached()
        ack = asyncio.create_task(node.ack())
        assert counts((await streams(address))["left"]) == {"received": 1, "waiting": 1}
        assert not ack.done()
        gate.open()
        assert await ack == 1


async def test_a_stored_frame_is_acknowledged_though_the_decoder_is_busy(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    tiny_decoder: FrameDecoder,
    held_decoder: threading.Event,
    tmp_path: Path,
) -> None:
    address = address_of(await start_decoder(archive=tmp_path / "archive", credit_frames=2))
    async with subscribed(address, format=RAW) as pictures, CameraNode.connect(address) as node:
        await node.resume(archive_open(compressed))
        for sequence in range(1, 8):
            await node.send(sequence, compressed)
            assert await node.ack() == sequence
        assert counts((await streams(address))["left"]) == {"received": 7, "waiting": 7}
        held_decoder.set()
        got = [await picture_of(pictures) for _ in range(7)]
    assert [frame.sequence for frame in got] == list(range(1, 8))
    image = from_image(got[0].image, max_pixels=10_000)
    np.testing.assert_array_equal(image, tiny_decoder.decode(compressed))
    assert counts((await streams(address))["left"]) == {"received": 7, "decoded": 7}


async def test_a_call_that_breaks_while_its_frame_is_stored(
    start_decoder: StartDecoder, compressed: CompressedFrame, make_gate: MakeGate, tmp_path: Path
) -> None:
    history = tmp_path / "history"
    address = address_of(await start_decoder(archive=tmp_path / "archive", history=history))
    request = archive_open(compressed)
    gate = make_gate(Archive, "store")
    async with subscribed(address, format=RAW) as pictures:
        async with CameraNode.connect(address) as broken:
            await broken.resume(request)
            await broken.send(1, compressed, dropped_before=2)
            await gate.wait_until_reached()
        await until(address, lambda streams: not streams["left"].open)
        assert counts((await streams(address))["left"]) == {"received": 1, "abandoned": 1}
        gate.open()
        assert (await picture_of(pictures)).sequence == 1
        assert counts((await streams(address))["left"]) == {"received": 1, "decoded": 1}
        async with CameraNode.connect(address) as again:
            opened = await again.resume(request)
            assert (opened.next_sequence, opened.resumed) == (1, True)
            await again.send(1, compressed, dropped_before=2)
            await again.send(2, compressed)
            assert acks(await again.finish()) == [1, 2]
        assert (await picture_of(pictures)).sequence == 2
    account = counts((await streams(address))["left"])
    assert account == {"received": 3, "abandoned": 1, "decoded": 2, "dropped": 2}
    assert [event["sequence"] for event in events(history, "stored")] == [1, 2]
    assert [event["sequence"] for event in events(history, "duplicate")] == [1]
    assert [event["sequence"] for event in events(history, "decoded")] == [1, 2]


async def test_a_frame_in_store_when_another_call_takes_over(
    start_decoder: StartDecoder, compressed: CompressedFrame, make_gate: MakeGate, tmp_path: Path
) -> None:
    address = address_of(await start_decoder(archive=tmp_path / "archive"))
    request = archive_open(compressed)
    gate = make_gate(Archive, "store")
    async with CameraNode.connect(address) as old, CameraNode.connect(address) as new:
        await old.resume(request)
        await old.send(1, compressed)
        await gate.wait_until_reached()
        assert (await new.resume(request)).next_sequence == 1
        assert (await old.refusal())[1] == "SESSION_SUPERSEDED"
        await new.send(1, compressed)
        gate.open()
        assert acks(await new.finish()) == [1]
    await until(address, lambda streams: not streams["left"].waiting)
    assert counts((await streams(address))["left"]) == {"received": 2, "abandoned": 1, "decoded": 1}


async def test_a_damaged_frame_is_refused_and_never_asked_for_again(
    start_decoder: StartDecoder, compressed: CompressedFrame, tmp_path: Path
) -> None:
    settings = {"archive": tmp_path / "archive", "history": tmp_path / "history"}
    decoder = await start_decoder(**settings)
    flipped = bytearray(compressed.payload)
    flipped[3] ^= 0x10
    request = archive_open(compressed)
    async with CameraNode.connect(address_of(decoder)) as node:
        await node.resume(request)
        await node.send(1, replace(compressed, payload=bytes(flipped)), dropped_before=1)
        answers = await node.finish()
    assert (errors(answers), acks(answers)) == ([(1, "PAYLOAD_CORRUPT")], [1])
    assert counts((await streams(address_of(decoder)))["left"]) == {"received": 1, "failed": 1, "dropped": 1}
    assert not events(settings["history"], "stored")
    await stop(decoder)
    address = address_of(await start_decoder(**settings))
    assert counts((await streams(address))["left"]) == {"received": 1, "failed": 1, "dropped": 1}
    async with CameraNode.connect(address) as node:
        opened = await node.resume(request)
        assert (opened.next_sequence, opened.resumed) == (2, True)


async def test_a_restart_decodes_what_is_stored_once(
    start_decoder: StartDecoder, compressed: CompressedFrame, held_decoder: threading.Event, tmp_path: Path
) -> None:
    settings = {"archive": tmp_path / "archive", "history": tmp_path / "history", "write_frames": tmp_path}
    request = archive_open(compressed)
    decoder = await start_decoder(**settings)
    await store_frames(address_of(decoder), request, *[compressed] * 3)
    await stop(decoder)
    held_decoder.set()
    decoder = await start_decoder(warm=False, **settings)
    async with subscribed(address_of(decoder), format=RAW) as pictures:
        await decoder.warm_up()
        got = [await picture_of(pictures) for _ in range(3)]
    assert [frame.sequence for frame in got] == [1, 2, 3]
    assert {frame.session_id for frame in got} == {request.session_id}
    assert counts((await streams(address_of(decoder)))["left"]) == {"received": 3, "decoded": 3}
    await stop(decoder)
    decoder = await start_decoder(warm=False, **settings)
    async with subscribed(address_of(decoder), format=RAW) as pictures:
        await decoder.warm_up()
        stream = (await streams(address_of(decoder)))["left"]
        assert (counts(stream), stream.open) == ({"received": 3, "decoded": 3}, False)
        async with CameraNode.connect(address_of(decoder)) as node:
            request.next_sequence = 2  # the acks of 2 and 3 were lost with the server
            opened = await node.resume(request)
            assert (opened.next_sequence, opened.resumed) == (4, True)
            await node.send(4, compressed)
            assert acks(await node.finish()) == [4]
        assert (await picture_of(pictures)).sequence == 4, "nothing is published again"
    assert counts((await streams(address_of(decoder)))["left"]) == {"received": 4, "decoded": 4}
    assert [event["sequence"] for event in events(settings["history"], "decoded")] == [1, 2, 3, 4]
    folder = tmp_path / "rig" / "left" / request.session_id.hex()[:8]
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:08d}.png" for n in range(1, 5)]


async def test_the_newest_session_is_the_cameras(
    start_decoder: StartDecoder, compressed: CompressedFrame, held_decoder: threading.Event, tmp_path: Path
) -> None:
    decoder = await start_decoder(archive=tmp_path)
    former, latter = archive_open(compressed), archive_open(compressed)
    await store_frames(address_of(decoder), former, *[compressed] * 3)
    await store_frames(address_of(decoder), latter, *[compressed] * 2)
    await stop(decoder)
    held_decoder.set()
    decoder = await start_decoder(warm=False, archive=tmp_path)
    async with subscribed(address_of(decoder), format=RAW) as pictures:
        await decoder.warm_up()
        got = [(await picture_of(pictures)) for _ in range(5)]
    assert [frame.session_id for frame in got] == [former.session_id] * 3 + [latter.session_id] * 2
    stream = (await streams(address_of(decoder)))["left"]
    assert stream.session_id == latter.session_id
    assert counts(stream) == {"received": 2, "decoded": 2}


async def test_frames_wait_for_a_bundle_that_is_not_served(
    start_decoder: StartDecoder,
    tiny_bundle: Bundle,
    other_bundle: Bundle,
    picture: Frame,
    held_decoder: threading.Event,
    tmp_path: Path,
) -> None:
    frame = FrameEncoder(other_bundle).encode(picture)
    decoder = await start_decoder(archive=tmp_path, bundle=(tiny_bundle.path, other_bundle.path))
    request = archive_open(frame)
    await store_frames(address_of(decoder), request, frame, frame)
    await stop(decoder)
    held_decoder.set()
    with capture_logs() as logs:
        decoder = await start_decoder(archive=tmp_path)
        await until(address_of(decoder), lambda _: "warning" in {log["log_level"] for log in logs})
        assert counts((await streams(address_of(decoder)))["left"]) == {"received": 2, "waiting": 2}
        await stop(decoder)
    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert [log["event"] for log in warnings] == ["stored frames wait for their bundle"]
    named = {name: warnings[0][name] for name in ("rig", "camera", "session", "sequence")}
    session = request.session_id.hex()[:8]
    assert named == {"rig": "rig", "camera": "left", "session": session, "sequence": 1}
    decoder = await start_decoder(archive=tmp_path, bundle=(tiny_bundle.path, other_bundle.path))
    await until(address_of(decoder), lambda streams: streams["left"].decoded == 2)


async def fill(node: CameraNode, frame: CompressedFrame) -> int:
    """Send frames one by one until the archive is full; how many it took."""
    for sequence in range(1, 1000):
        await node.send(sequence, frame)
        try:
            assert await node.ack() == sequence
        except grpc.aio.AioRpcError:
            assert await node.refusal() == FULL
            return sequence - 1
    raise AssertionError("the archive took all")


async def test_a_full_archive_refuses_loses_nothing_and_goes_on(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    tiny_encoder: FrameEncoder,
    side_picture: Frame,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    small_archive(monkeypatch, 200_000)
    large = tiny_encoder.encode(np.random.default_rng(3).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    address = address_of(await start_decoder(archive=tmp_path, archive_pair_wait_ms=600_000))
    request = archive_open(large, camera="full", side_information_streams=["right"])
    async with CameraNode.connect(address) as live, CameraNode.connect(address) as node:
        await live.resume(camera_open(compressed, camera="live"))
        await node.resume(request)
        stored = await fill(node, large)
        assert stored > 3
        await live.send(1, compressed)
        assert await live.ack() == 1, "nobody else is disturbed"
        account = counts((await streams(address))["full"])
        assert account == {"received": stored + 1, "waiting": stored, "abandoned": 1}
        async with CameraNode.connect(address) as early:
            assert (await early.resume(request)).next_sequence == stored + 1
            await early.send(stored + 1, large)
            assert await early.refusal() == FULL
        async with SideNode.connect(address) as side:  # what the frames wait for has gone by
            await side.open(side_open(side_picture))
            await side.send(1, side_picture, EPOCH_US + 1_000_000_000)
            await until(address, lambda streams: streams["full"].decoded == stored)
        async with CameraNode.connect(address) as again:
            await again.resume(request)
            await again.send(stored + 1, large)
            assert acks(await again.finish()) == [stored + 1]


async def test_an_archive_full_of_side_informations_sources_still_decodes(
    start_decoder: StartDecoder,
    tiny_encoder: FrameEncoder,
    held_decoder: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    small_archive(monkeypatch, 200_000)
    large = tiny_encoder.encode(np.random.default_rng(3).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    address = address_of(await start_decoder(archive=tmp_path))
    async with CameraNode.connect(address) as wanting, CameraNode.connect(address) as node:
        await wanting.resume(camera_open(large, camera="wanting", side_information_streams=["left"]))
        await node.resume(archive_open(large))
        stored = await fill(node, large)
        held_decoder.set()
        await until(address, lambda streams: streams["left"].decoded == stored)


async def test_a_store_that_fails_costs_no_frame(
    start_decoder: StartDecoder, compressed: CompressedFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = address_of(await start_decoder(archive=tmp_path))
    request = archive_open(compressed)

    def fail(*_: object) -> bool:
        raise StoreError("the disk has gone away; check its cable")

    async with CameraNode.connect(address) as node:
        await node.resume(request)
        with monkeypatch.context() as broken:
            broken.setattr(Archive, "store", fail)
            await node.send(1, compressed)
            assert await node.refusal() == FULL, "retryable, and neither an ack nor an error of the frame"
    async with CameraNode.connect(address) as node:
        assert (await node.resume(request)).next_sequence == 1
        await node.send(1, compressed)
        assert acks(await node.finish()) == [1]


async def test_a_stored_frame_on_which_the_decoder_fails_holds_up_no_other(
    start_decoder: StartDecoder,
    compressed: CompressedFrame,
    tiny_encoder: FrameEncoder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    poison = tiny_encoder.encode(np.zeros((24, 40, 3), np.uint8), 0)
    decode_batch = FrameDecoder.decode_batch

    def decode(
        decoder: FrameDecoder, indices: Sequence[Indices], side: Sequence[Frame | None]
    ) -> Sequence[Frame]:
        if any(one.rate_level == 0 for one in indices):
            raise MemoryError
        return decode_batch(decoder, indices, side)

    monkeypatch.setattr(FrameDecoder, "decode_batch", decode)
    history = tmp_path / "history"
    with capture_logs() as logs:
        address = address_of(await start_decoder(archive=tmp_path / "archive", history=history))
        await store_frames(address, archive_open(compressed), poison, compressed)
        await until(address, lambda streams: not streams["left"].waiting)
    assert counts((await streams(address))["left"]) == {"received": 2, "decoded": 1, "failed": 1}
    assert [(e["sequence"], e["reason"]) for e in events(history, "failed")] == [(1, "DECODER_FAILED")]
    (failed,) = [log for log in logs if log["event"] == "frame failed"]
    assert (failed["camera"], failed["sequence"], failed["log_level"]) == ("left", 1, "error")


async def test_the_end_of_the_server_swallows_no_picture(
    start_decoder: StartDecoder, compressed: CompressedFrame, make_gate: MakeGate, tmp_path: Path
) -> None:
    decoder = await start_decoder(archive=tmp_path)
    gate = make_gate(Archive, "mark_decoded")
    async with subscribed(address_of(decoder), format=RAW) as pictures:
        await store_frames(address_of(decoder), archive_open(compressed), compressed)
        await gate.wait_until_reached()
        draining = asyncio.create_task(decoder.drain())
        await until(address_of(decoder), lambda streams: bool(streams))
        assert not draining.done()
        gate.open()
        assert (await picture_of(pictures)).sequence == 1
        await draining
