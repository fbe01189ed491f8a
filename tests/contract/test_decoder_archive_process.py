"""An archive and the process that holds it: kill -9, SIGTERM, and a second decoder."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.frames import Frame, read_image
from ndsc.v1.frame_stream_pb2 import Open
from tests.contract.decoder_node import (
    ARCHIVE,
    EPOCH_US,
    CameraNode,
    SideNode,
    acks,
    camera_open,
    counts,
    events,
    frame_message,
    side_open,
    streams,
    until,
)
from tests.contract.decoder_process import log_lines, run, started

LONG_MS = 600_000
"""A wait that no test sits out."""


def waiting_open(compressed: CompressedFrame) -> Open:
    """Of frames that wait, stored, for side information that does not come."""
    return camera_open(compressed, delivery=ARCHIVE, side_information_streams=["right"])


async def store_frames(address: str, request: Open, compressed: CompressedFrame, count: int) -> None:
    async with CameraNode.connect(address) as node:
        await node.resume(request)
        await node.send_together(*(frame_message(0, compressed) for _ in range(count)))
        assert acks(await node.finish()) == list(range(1, count + 1))


async def test_kill_9_between_store_and_picture(
    tiny_bundle_path: Path,
    compressed: CompressedFrame,
    side_picture: Frame,
    tiny_decoder: FrameDecoder,
    tmp_path: Path,
) -> None:
    history = tmp_path / "history"
    arguments = (
        *("--archive", tmp_path / "archive", "--history", history, "--write-frames", tmp_path / "out"),
        *("--archive-pair-wait-ms", LONG_MS),
    )
    request = waiting_open(compressed)
    with started(tiny_bundle_path, *arguments) as (process, port):
        address = f"127.0.0.1:{port}"
        async with SideNode.connect(address) as side:
            await side.open(side_open(side_picture, delivery=ARCHIVE))
            await side.send(1, side_picture, EPOCH_US + 200_000)
            await store_frames(address, request, compressed, 4)
            await until(address, lambda streams: streams["left"].decoded == 2)
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait, 10)
    assert [event["sequence"] for event in events(history, "stored")] == [1, 2, 3, 4]
    with started(tiny_bundle_path, *arguments) as (process, port):
        address = f"127.0.0.1:{port}"
        assert counts((await streams(address))["left"]) == {"received": 4, "decoded": 2, "waiting": 2}
        async with SideNode.connect(address) as side:
            await side.open(side_open(side_picture))
            await side.send(1, side_picture, EPOCH_US + 400_000)
            await until(address, lambda streams: streams["left"].decoded == 4)
        async with CameraNode.connect(address) as node:
            opened = await node.resume(request)
            assert (opened.next_sequence, opened.resumed) == (5, True)
    decoded = events(history, "decoded")
    made = [(event["sequence"], event["outcome"]) for event in decoded if event["kind"] == "camera"]
    assert made == [(1, "absent"), (2, "paired"), (3, "absent"), (4, "paired")]
    folder = tmp_path / "out" / "rig" / "left" / request.session_id.hex()[:8]
    pictures = [read_image(folder / f"{sequence:08d}.png") for sequence in range(1, 5)]
    for picture, side_used in zip(pictures, (None, side_picture, None, side_picture), strict=True):
        assert (picture == tiny_decoder.decode(compressed, side_used)).all()


async def test_sigterm_does_not_wait_for_what_is_stored(
    tiny_bundle_path: Path, compressed: CompressedFrame, tmp_path: Path
) -> None:
    arguments = (
        "--archive",
        tmp_path,
        "--archive-pair-wait-ms",
        LONG_MS,
        "--drain-seconds",
        30,
        "--log-json",
    )
    with started(tiny_bundle_path, *arguments) as (process, port):
        address = f"127.0.0.1:{port}"
        async with CameraNode.connect(address) as node:
            await node.resume(waiting_open(compressed))
            await node.send(1, compressed)
            assert await node.ack() == 1
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert (await node.read()).WhichOneof("message") == "drain"
            await node.send(2, compressed)
            assert acks(await node.finish()) == [2]
        _, said = await asyncio.to_thread(process.communicate, timeout=20)
        assert process.returncode == 0
        assert time.monotonic() - began < 10
    assert {line["level"] for line in log_lines(said)} == {"info"}
    with started(tiny_bundle_path, *arguments) as (_, port):
        assert counts((await streams(f"127.0.0.1:{port}"))["left"]) == {"received": 2, "waiting": 2}


def test_an_archive_has_one_decoder(tiny_bundle_path: Path, tmp_path: Path) -> None:
    with started(tiny_bundle_path, "--archive", tmp_path):
        ended = run("--bundle", str(tiny_bundle_path), "--listen", "127.0.0.1:0", "--archive", str(tmp_path))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        f"error: {tmp_path / 'archive.sqlite'} is in use by another process; stop it or choose another folder"
    ]
