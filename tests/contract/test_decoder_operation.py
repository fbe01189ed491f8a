"""What an operator sees: health without a provider, and the logs of a stream."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
from structlog.testing import capture_logs

from decoder_service.server import SERVICE_NAMES
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.frames import Frame
from ndsc.service.health import check_health
from ndsc.v1.frame_stream_pb2 import StreamFramesRequest
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import (
    ARCHIVE,
    CameraNode,
    SideNode,
    acks,
    camera_open,
    errors,
    side_open,
    until,
)
from tests.contract.decoder_process import launched, log_lines, started


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def test_a_decoder_without_its_provider_stays_and_says_so(
    tiny_bundle_path: Path, compressed: CompressedFrame
) -> None:
    address = f"127.0.0.1:{free_port()}"
    arguments = ("--listen", address, "--provider", "cuda", "--log-json")
    with launched(tiny_bundle_path, *arguments) as process:
        assert process.stderr is not None
        line = await asyncio.to_thread(process.stderr.readline)
        (said,) = log_lines(line)
        assert (said["event"], said["level"]) == ("not serving", "error")
        assert "cuda" in said["error"].lower()
        for name in ("", *SERVICE_NAMES):
            assert await check_health(address, name) == "NOT_SERVING"
        for camera in ("a", "b"):
            async with CameraNode.connect(address) as node:
                await node.write(StreamFramesRequest(open=camera_open(compressed, camera=camera)))
                assert await node.refusal() == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
        health = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "ndsc.cli", "health", address],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert health.returncode == 1
        assert "NOT_SERVING" in health.stdout + health.stderr
        process.send_signal(signal.SIGTERM)
        out, rest = await asyncio.to_thread(process.communicate, timeout=20)
        assert (process.returncode, out) == (0, "")
    # Who was turned away is logged, the same reason once in ten seconds; the error is not said again.
    lines = [line for line in log_lines(rest) if line["level"] != "info"]
    assert [(line["event"], line["level"], line["reason"]) for line in lines] == [
        ("call refused", "warning", "NOT_READY")
    ]


async def test_every_line_of_a_stream_names_it(
    tiny_bundle_path: Path, compressed: CompressedFrame, side_picture: Frame, tmp_path: Path
) -> None:
    damaged = replace(compressed, payload=compressed.payload[:-4])
    streams: dict[tuple[str, str], str] = {}
    (tmp_path / "out").write_text("a file is in the way of the pictures")
    arguments = ("--log-json", "--archive", tmp_path / "archive", "--write-frames", tmp_path / "out")
    with started(tiny_bundle_path, *arguments) as (process, port):
        address = f"127.0.0.1:{port}"
        for camera, fields in (("live", {}), ("stored", {"delivery": ARCHIVE})):
            request = camera_open(compressed, camera=camera, **fields)
            streams["rig", camera] = request.session_id.hex()[:8]
            async with CameraNode.connect(address) as node:
                await node.resume(request)
                await node.send(1, damaged)
                await node.send(2, compressed)
                answers = await node.finish()
            assert (errors(answers)[0][0], acks(answers)) == (1, [1, 2])
        async with SideNode.connect(address) as side:
            opening = side_open(side_picture)
            streams["rig", "right"] = opening.session_id.hex()[:8]
            await side.open(opening)
        await until(address, lambda all_streams: all_streams["stored"].decoded == 1)
        await until(address, lambda all_streams: not all_streams["right"].open)
        process.send_signal(signal.SIGTERM)
        _, text = await asyncio.to_thread(process.communicate, timeout=20)
    lines = [line for line in log_lines(text) if line["event"] not in ("serving", "draining", "stopped")]
    named = {(line["rig"], line["camera"]): line["session"] for line in lines}
    assert named == streams
    assert all(streams[line["rig"], line["camera"]] == line["session"] for line in lines)
    frames = sorted((line["camera"], line["event"], line["sequence"]) for line in lines if "sequence" in line)
    assert frames == [
        ("live", "frame refused", 1),
        ("live", "picture not written", 2),
        ("stored", "frame refused", 1),
        ("stored", "picture not written", 2),
    ]
    others = {line["event"] for line in lines if "sequence" not in line}
    assert others == {"stream opened", "stream closed"}


async def test_a_camera_that_sends_rubbish_does_not_fill_the_log(
    start_decoder: StartDecoder, compressed: CompressedFrame
) -> None:
    damaged = replace(compressed, payload=b"")
    with capture_logs() as logs:
        address = address_of(await start_decoder())
        async with CameraNode.connect(address) as node:
            await node.resume(camera_open(compressed))
            for sequence in range(1, 21):
                await node.send(sequence, damaged)
                assert errors([await node.read()]) == [(sequence, "PAYLOAD_SIZE")]
                assert await node.ack() == sequence
    refused: list[Any] = [log for log in logs if log["event"] == "frame refused"]
    assert [log["sequence"] for log in refused] == [1]


async def test_a_refusal_is_logged_with_its_reason(
    start_decoder: StartDecoder, compressed: CompressedFrame
) -> None:
    with capture_logs() as logs:
        address = address_of(await start_decoder())
        async with CameraNode.connect(address) as node:
            request = camera_open(compressed)
            await node.resume(request)
            await node.send(5, compressed)
            await node.send(5, compressed)
            assert (await node.refusal())[1] == "SEQUENCE_NOT_INCREASING"
    (refused,) = [log for log in logs if log["event"] == "stream refused"]
    expected = ("rig", "left", request.session_id.hex()[:8], "SEQUENCE_NOT_INCREASING")
    assert tuple(refused[name] for name in ("rig", "camera", "session", "reason")) == expected
    assert refused["log_level"] == "warning"
