"""A camera node as a process: health, the lines it prints, signals, its own service, metrics, exit codes."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from encoder_service import server as server_module
from encoder_service.server import main
from encoder_service.settings import EncoderSettings
from ndsc.codec.frames import read_image
from ndsc.service import errors
from ndsc.service.channel import open_channel
from ndsc.service.errors import describe
from ndsc.service.health import check_health
from ndsc.service.images import from_image
from ndsc.service.timestamps import from_timestamp, to_timestamp
from ndsc.v1.node_pb2 import (
    FollowLink,
    GetNodeRequest,
    GetNodeResponse,
    GetSourceRequest,
    Rate,
    SetRateRequest,
)
from ndsc.v1.node_pb2_grpc import NodeServiceStub
from ndsc.v1.types_pb2 import DELIVERY_LIVE, Credit
from tests.contract.encoder_peer import Peer
from tests.contract.service_process import Service, free_port


class Starter:
    """Starts node processes that play the folder of ten pictures, and ends those that are left."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self._flags = ("--source", folder, "--bundle", bundle, "--threads", 1)
        self.started: list[Service] = []

    async def __call__(self, peer: Peer | str, *flags: object) -> Service:
        address = peer if isinstance(peer, str) else peer.address
        service = await Service.start("encoder_service", *self._flags, "--decoder", address, *flags)
        self.started.append(service)
        return service


@pytest.fixture
async def start(folder: Path, tiny_bundle_path: Path) -> AsyncIterator[Starter]:
    starter = Starter(folder, tiny_bundle_path)
    yield starter
    for service in starter.started:
        await service.kill()


async def test_the_process_serves_health_prints_its_account_and_exits_0(peer: Peer, start: Starter) -> None:
    peer.ack_each = False
    process = await start(peer, "--pace", "credit")
    port = (await process.line("ready"))["port"]
    assert await check_health(f"127.0.0.1:{port}") == "SERVING"
    assert await check_health(f"127.0.0.1:{port}", "encoder") == "SERVING"
    await peer.until_frames(10)
    await peer.call.ack(10)
    done = await process.line("done")
    assert await process.end() == (0, "", "")
    assert (done["role"], done["rig"], done["camera"], done["delivery"]) == ("camera", "rig", "left", "live")
    account = ("captured", "sent", "acked", "failed", "dropped", "unknown", "waiting", "calls")
    assert [done[name] for name in account] == [10, 10, 10, 0, 0, 0, 0, 1]
    assert done["session"] == peer.call.open.session_id.hex()
    assert done["frame_bytes"] - done["payload_bytes"] <= 10 * (16 + 4)


async def test_sigterm_finishes_what_is_under_way_and_exits_0(peer: Peer, start: Starter) -> None:
    peer.credit = Credit(max_frames=4, max_bytes=1 << 20)
    process = await start(peer, "--loop", "--fps", 200)
    await process.line("ready")
    await peer.until_frames(5)
    process.terminate()
    done = await process.line("done")
    assert await process.end() == (0, "", "")
    assert peer.call.half_closed
    assert done["captured"] == done["sent"] + done["dropped"]
    assert done["sent"] == done["acked"] == len(peer.frames)
    assert sum(frame.message.dropped_before for frame in peer.frames) <= done["dropped"]


async def test_sigterm_with_frames_that_are_never_acknowledged_is_one_line(
    peer: Peer, start: Starter
) -> None:
    peer.ack_each = False
    process = await start(peer, "--loop", "--drain-seconds", 1)
    await process.line("ready")
    await peer.until_frames(2)
    process.terminate()
    done = await process.line("done")
    code, out, err = await process.end()
    assert (code, out, err.count("\n")) == (1, "", 1)
    lost = done["sent"] - done["acked"]
    assert lost >= 2
    assert f"the decoder at {peer.address} did not acknowledge {lost} frames" in err


async def test_sigterm_before_the_session_is_open_exits_0(peer: Peer, start: Starter) -> None:
    peer.answers = False
    listen = f"127.0.0.1:{free_port()}"
    process = await start(peer, "--listen", listen)
    await peer.until_calls(1)
    assert await check_health(listen) == "NOT_SERVING"
    assert await check_health(listen, "encoder") == "NOT_SERVING"
    process.terminate()
    code, out, err = await process.end()
    assert (code, err) == (0, "")
    # A frame that the camera took before the signal came is in the account, as dropped; without one there is none.
    assert out.count("\n") <= 1
    for line in out.splitlines():
        word, done = line.split(" ", 1)
        account = json.loads(done)
        assert (word, account["sent"], account["captured"]) == ("done", 0, account["dropped"])


async def test_health_follows_the_connection(peer: Peer, start: Starter) -> None:
    process = await start(peer, "--loop", "--reconnect-max-s", 0.2)
    address = f"127.0.0.1:{(await process.line('ready'))['port']}"
    await peer.stop()
    await until_health(address, "NOT_SERVING")
    await peer.start()
    await until_health(address, "SERVING")
    process.terminate()
    assert (await process.line("done"))["calls"] == 2
    assert await process.end() == (0, "", "")


async def until_health(address: str, status: str) -> None:
    async with asyncio.timeout(20):
        while await check_health(address, "encoder") != status:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("delivery", ["live", "archive"])
async def test_no_decoder_is_waited_for_and_sigterm_then_exits_0(
    start: Starter, tmp_path: Path, delivery: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # but nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await start(
            *(address, "--delivery", delivery, "--spool", tmp_path / "spool", "--log-level", "warning")
        )
        assert process.process.stderr is not None
        async with asyncio.timeout(20):
            line = (await process.process.stderr.readline()).decode()
        assert f"no decoder answers at {address}: start it with `ndsc serve decoder`" in line
        process.terminate()
        code, out, _ = await process.end()
        assert (code, out) == (0, "")


async def test_no_decoder_is_one_line_after_the_time_to_give_up(start: Starter) -> None:
    address = f"127.0.0.1:{free_port()}"
    start_s = time.monotonic()
    process = await start(address, "--give-up-after-s", 0.5)
    assert await process.end() == (
        1,
        "",
        f"error: no decoder answers at {address}: start it with `ndsc serve decoder`, or give its address with "
        f"--decoder\n",
    )
    assert time.monotonic() - start_s < 15


async def test_a_refusal_is_one_line(peer: Peer, start: Starter) -> None:
    peer.refusals = iter([(errors.DELIVERY_UNSUPPORTED, "no archive here")])
    process = await start(peer)
    assert await process.end() == (
        1,
        "",
        f"error: the decoder at {peer.address} ended the session: no archive here (DELIVERY_UNSUPPORTED)\n",
    )


@pytest.mark.parametrize("setting", ["listen", "metrics-listen"])
async def test_a_port_that_is_taken_is_one_line(start: Starter, peer: Peer, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await start(peer, f"--{setting}", address)
        code, out, err = await process.end()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: cannot ")
    assert address in err
    assert f"choose another --{setting}" in err.replace(" with ", " ")


async def test_a_spool_that_another_node_holds_is_one_line(
    peer: Peer, start: Starter, tmp_path: Path
) -> None:
    archive = ("--delivery", "archive", "--spool", tmp_path / "spool", "--loop")
    first = await start(peer, *archive)
    await first.line("ready")
    second = await start(peer, *archive)
    code, out, err = await second.end()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "is in use by another process; stop it or choose another folder" in err


class Control:
    """Calls of a node's own service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = NodeServiceStub(channel)

    async def get(self) -> GetNodeResponse:
        return await self._stub.GetNode(GetNodeRequest(), timeout=10)

    async def set(self, **rate: Any) -> None:
        await self._stub.SetRate(SetRateRequest(rate=Rate(**rate)), timeout=10)

    async def refusal(self, **rate: Any) -> tuple[str | None, str]:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.set(**rate)
        _, reason, message = describe(refused.value)
        return reason, message


async def test_a_node_tells_how_it_is_and_takes_another_rate(peer: Peer, start: Starter) -> None:
    process = await start(peer, "--loop", "--fps", 100, "--rate-level", 0)
    port = (await process.line("ready"))["port"]
    async with open_channel(f"127.0.0.1:{port}") as channel:
        control = Control(channel)
        await peer.until_frames(10)
        node = await control.get()
        assert (node.rig, node.camera, node.delivery, node.connected) == ("rig", "left", DELIVERY_LIVE, True)
        assert node.session_id == peer.call.open.session_id
        assert node.captured >= node.sent >= node.acknowledged > 0
        assert node.sent >= 10
        assert node.rate == Rate(rate_level=0)
        assert node.sent_kbps > 0
        assert {frame.message.rate_level for frame in peer.frames} == {0}

        await control.set(rate_level=2)
        await peer.until(lambda: peer.frames[-1].message.rate_level == 2)
        assert (await control.get()).rate == Rate(rate_level=2)
        await control.set(target_kbps=123.0)
        assert (await control.get()).rate == Rate(target_kbps=123.0)
        await control.set(follow_link=FollowLink())
        assert (await control.get()).rate.HasField("follow_link")

        assert await control.refusal() == (
            "FIELD_INVALID",
            "rate must be a rate_level, a target_kbps or follow_link",
        )
        assert await control.refusal(rate_level=7) == (
            "FIELD_INVALID",
            "no rate level 7; this bundle has 0 to 2",
        )
        assert (await control.refusal(target_kbps=float("nan")))[0] == "FIELD_INVALID"
    process.terminate()
    await process.line("done")
    assert await process.end() == (0, "", "")


async def test_a_node_shows_what_it_saw_when_it_offers_that(peer: Peer, start: Starter, folder: Path) -> None:
    process = await start(peer, "--loop", "--fps", 20, "--offer-sources", 200)
    pictures = [read_image(folder / f"{number:03d}.png") for number in range(10)]
    port = (await process.line("ready"))["port"]
    await peer.until_frames(5)
    epoch_us = from_timestamp(peer.call.open.capture_epoch)
    async with open_channel(f"127.0.0.1:{port}") as channel:
        stub = NodeServiceStub(channel)
        for frame in peer.frames[:4]:
            asked = GetSourceRequest(capture_time=to_timestamp(frame.capture_time_us))
            answer = await stub.GetSource(asked, timeout=10)
            assert answer.capture_time == asked.capture_time
            number = round((frame.capture_time_us - epoch_us) / 50_000) % len(pictures)
            np.testing.assert_array_equal(from_image(answer.image, max_pixels=10_000), pictures[number])
        newest = await stub.GetSource(GetSourceRequest(), timeout=10)
        assert from_timestamp(newest.capture_time) >= peer.frames[4].capture_time_us
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetSource(GetSourceRequest(capture_time=to_timestamp(epoch_us - 1)), timeout=10)
    assert describe(refused.value)[1:] == (
        "SOURCE_NOT_FOUND",
        "the node offers its last 200 frames, and that is none of them",
    )


async def test_a_node_shows_nothing_unless_told_to(peer: Peer, start: Starter) -> None:
    process = await start(peer, "--loop")
    port = (await process.line("ready"))["port"]
    await peer.until_frames(2)
    async with open_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await NodeServiceStub(channel).GetSource(GetSourceRequest(), timeout=10)
    assert describe(refused.value)[1:] == ("SOURCE_NOT_FOUND", "the node offers no frames of its own")


async def test_metrics_show_the_account(peer: Peer, start: Starter) -> None:
    metrics_listen = f"127.0.0.1:{free_port()}"
    process = await start(peer, "--loop", "--metrics-listen", metrics_listen)
    await process.line("ready")
    await peer.until_frames(3)

    def read() -> dict[str, float]:
        with urllib.request.urlopen(f"http://{metrics_listen}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (row.rsplit(" ", 1) for row in lines if row[0] != "#")}

    values = await asyncio.to_thread(read)
    assert values["ndsc_node_connected"] == 1
    assert values["ndsc_node_credit_frames"] == 100
    assert values['ndsc_node_frames_total{outcome="sent"}'] >= 3
    assert values["ndsc_node_connections_total"] == 1
    assert values["ndsc_node_rate_level"] == 1
    process.terminate()
    await process.line("done")
    assert await process.end() == (0, "", "")


def test_an_interrupt_before_the_signal_handlers_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(_: EncoderSettings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server_module, "serve", interrupted)
    monkeypatch.setattr(server_module, "configure_logs", lambda **_: None)
    with pytest.raises(SystemExit) as ended:
        main(["--source", "x"])
    assert ended.value.code == 130
