"""`python -m decoder_service` as a real process: ready, signals, and one clear line for what is wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from decoder_service.__main__ import main
from decoder_service.settings import DecoderSettings
from ndsc.codec.bitstream import CompressedFrame
from ndsc.service.channel import open_channel
from ndsc.service.health import check_health
from tests.contract.decoder_node import CameraNode, camera_open
from tests.contract.decoder_process import run, started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tiny_bundle_path: Path, number: signal.Signals) -> None:
    with started(tiny_bundle_path, "--log-json", "--drain-seconds", "5") as (process, port):
        assert asyncio.run(check_health(f"127.0.0.1:{port}", "ndsc.v1.DecodeService")) == "SERVING"
        began = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        assert process.returncode == 0
        assert time.monotonic() - began < 5
    assert out == ""
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events[0] == "serving"
    assert events[-1] == "stopped"


async def test_a_camera_is_told_to_drain(tiny_bundle_path: Path, compressed: CompressedFrame) -> None:
    with started(tiny_bundle_path, "--drain-seconds", "2") as (process, port):
        async with CameraNode.connect(f"127.0.0.1:{port}") as node:
            await node.open(camera_open(compressed))
            await node.send(1, compressed)
            assert (await node.read()).ack.up_to_sequence == 1
            process.send_signal(signal.SIGTERM)
            assert (await node.read()).WhichOneof("message") == "drain"
            await node.finish()
        assert await asyncio.to_thread(process.wait, 5) == 0


def test_a_busy_port_is_one_line(tiny_bundle_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run("--bundle", str(tiny_bundle_path), "--listen", address)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        f"error: cannot listen at {address}: the port is taken or the host is not this machine's; "
        f"choose another with --listen"
    ]


def test_a_bad_setting_is_one_line() -> None:
    ended = run("--pair-wait-ms", "-1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: pair-wait-ms: Input should be greater than or equal to 0\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--nonsense", "1"], "unrecognized arguments: --nonsense 1"),
        (
            ["--attach", "right"],
            "attach: 'right' is not RIG/CAMERA=SOURCE, such as rig/right=synthetic:right",
        ),
        (["--attach-epoch", "nan"], "attach-epoch: Input should be less than or equal to 253402300799"),
        (["--attach", "r/a=x,r/a=y"], "attach: each RIG/CAMERA can have one source"),
        (["--listen", "50051"], "listen: '50051' is not an address such as 127.0.0.1:50051 or [::1]:50051"),
        (
            ["--listen", "0.0.0.0:0"],
            "listen: 0.0.0.0:0 can be reached from other machines and traffic is not encrypted; give --tls-ca, "
            "--tls-certificate and --tls-key, or add --allow-plaintext-beyond-loopback if the network is "
            "trusted, or listen at 127.0.0.1",
        ),
    ],
)
def test_other_bad_settings(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bundle", "/nowhere"], "/nowhere"),
        (["--attach", "rig/right=/nowhere"], "/nowhere"),
    ],
)
def test_what_is_missing_is_one_line(tiny_bundle_path: Path, arguments: list[str], said: str) -> None:
    ended = run(*arguments, NDSC_DECODER_BUNDLE=str(tiny_bundle_path))
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name in DecoderSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in said
    assert "NDSC_DECODER_PAIR_WAIT_MS" in said


async def test_a_health_watcher_does_not_hold_it_up(tiny_bundle_path: Path) -> None:
    with started(tiny_bundle_path, "--log-json", "--drain-seconds", "5") as (process, port):
        async with open_channel(f"127.0.0.1:{port}") as channel:
            watch: Any = channel.unary_stream(
                "/grpc.health.v1.Health/Watch",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )(health_pb2.HealthCheckRequest(service="ndsc.v1.DecodeService"))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            _, err = await asyncio.to_thread(process.communicate, timeout=5)
    assert process.returncode == 0
    assert [json.loads(line)["level"] for line in err.splitlines()] == ["info"] * 3
