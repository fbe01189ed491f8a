"""A decoder and a camera node as real processes under TLS: what they do, what they log, what they never log."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from ndsc.codec.frames import Frame, write_image
from ndsc.service.certificates import PRIVATE, PUBLIC, make_token_keys
from ndsc.service.channel import open_channel
from ndsc.service.errors import ServiceError
from ndsc.service.health import check_health
from ndsc.service.identity import ROLES, Role
from ndsc.service.tls import CertificateFiles, load_certificates
from ndsc.service.tokens import issue_token
from ndsc.v1.node_pb2 import GetNodeRequest, GetNodeResponse, Rate, SetRateRequest
from ndsc.v1.node_pb2_grpc import NodeServiceStub
from tests import pki

PATIENCE_S = 30.0


class Process:
    """A service that logs all it can, as JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.facts: dict[str, Any] = {}
        """What it said when it was ready."""
        self.output = ""

    async def ready(self) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await self._process.stdout.readline()).decode()
        self.output += line
        word, _, facts = line.partition(" ")
        assert word == "ready", line
        self.facts = json.loads(facts)

    async def logged(self, event: str) -> dict[str, Any]:
        """The next line of the log about an event."""
        assert self._process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = (await self._process.stderr.readline()).decode()
                assert line, f"ended without {event!r}"
                self.output += line
                entry: dict[str, Any] = json.loads(line)
                if entry["event"] == event:
                    return entry

    async def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, if any, and wait for the end; `output` is then complete."""
        if number is not None:
            self._process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self._process.communicate()
        self.output += out.decode() + err.decode()
        assert self._process.returncode is not None
        return self._process.returncode

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(tiny_bundle_path: Path) -> AsyncIterator[Start]:
    """`await start("decoder_service", files, "--flag", …)`."""
    async with AsyncExitStack() as stack:

        async def run(module: str, files: CertificateFiles | None, *flags: object) -> Process:
            command = [sys.executable, "-m", module, "--bundle", tiny_bundle_path, "--threads", 1, *flags]
            command += ["--log-level", "debug", "--log-json"]
            if files is not None:
                command += [
                    "--tls-ca",
                    files.ca,
                    "--tls-certificate",
                    files.certificate,
                    "--tls-key",
                    files.key,
                ]
            process = Process(
                await asyncio.create_subprocess_exec(
                    *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
                )
            )
            stack.push_async_callback(process.kill)
            return process

        yield run


@pytest.fixture
def ca(tmp_path: Path) -> pki.Authority:
    return pki.Authority(tmp_path / "pki")


@pytest.fixture
def source(tmp_path: Path, picture: Frame) -> list[object]:
    """Flags of a node that plays one picture for ever."""
    (tmp_path / "left").mkdir()
    write_image(tmp_path / "left" / "0.png", picture)
    return ["--source", tmp_path / "left", "--loop", "--fps", 10, "--side-information", "none"]


def private_lines(folder: Path) -> list[str]:
    """The lines that make up every private key below a folder."""
    keys = [*folder.rglob("key.pem"), *folder.rglob(PRIVATE)]
    assert len(keys) > 5
    return [line for key in keys for line in key.read_text().splitlines()[1:-1]]


async def state(address: str, files: CertificateFiles) -> GetNodeResponse:
    """A node's account."""
    async with open_channel(address, load_certificates(files)) as channel:
        return await NodeServiceStub(channel).GetNode(GetNodeRequest(), timeout=PATIENCE_S)


async def asked(address: str, files: CertificateFiles) -> grpc.StatusCode:
    """What a node answers to whoever has these files and asks how it is."""
    async with open_channel(address, load_certificates(files)) as channel:
        stub = NodeServiceStub(channel)
        try:
            answer = await stub.GetNode(GetNodeRequest(), timeout=PATIENCE_S)
            await stub.SetRate(SetRateRequest(rate=Rate(rate_level=0)), timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            return error.code()
    assert (answer.rig, answer.camera, answer.connected) == ("rig", "left", True)
    return grpc.StatusCode.OK


async def test_a_pair(start: Start, ca: pki.Authority, source: list[object], tmp_path: Path) -> None:
    make_token_keys(tmp_path / "keys")
    token = issue_token(tmp_path / "keys" / PRIVATE, rig="rig", name="bob", valid_s=600)
    mine = ca.node("camera", "left")
    decoder = await start(
        *("decoder_service", ca.server(), "--listen", "127.0.0.1:0", "--listen-clients", "127.0.0.1:0"),
        *("--token-key", tmp_path / "keys" / PUBLIC),
    )
    await decoder.ready()
    decoder_address = f"127.0.0.1:{decoder.facts['port']}"
    node = await start(
        "encoder_service", mine, *source, "--decoder", decoder_address, "--listen", "127.0.0.1:0"
    )
    await node.ready()
    await decoder.logged("stream opened")

    # The node tells clients of its rig how it is, and no one else.
    node_address = f"127.0.0.1:{node.facts['port']}"
    assert await check_health(node_address, certificates=load_certificates(mine)) == "SERVING"
    codes: dict[tuple[str, Role], grpc.StatusCode] = {
        (rig, role): await asked(node_address, ca.node(role, "alice", rig=rig))
        for rig in ("rig", "other")
        for role in ROLES
    }
    assert [who for who, code in codes.items() if code is grpc.StatusCode.OK] == [("rig", "client")]
    assert set(codes.values()) == {grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED}

    # People with good and with bad tokens.
    trusting = load_certificates(CertificateFiles(ca.certificate))
    clients_address = f"127.0.0.1:{decoder.facts['clients_port']}"
    assert await check_health(clients_address, certificates=trusting, token=token) == "SERVING"
    bad = token[:-8] + "AAAAAAAA"
    with pytest.raises(ServiceError, match="signed with another key"):
        await check_health(clients_address, certificates=trusting, token=bad)
    refusal = await decoder.logged("call refused")
    assert refusal["level"] == "warning"
    assert (refusal["reason"], refusal["message"]) == (
        "UNAUTHENTICATED",
        "the token was signed with another key than this server's: issue one with the key that fits",
    )

    # A renewed certificate: another call of the same session, nothing lost.
    ca.node("camera", "left", folder=mine.ca.parent)
    await node.logged("keys read again")
    opened = await decoder.logged("stream opened")
    assert opened["camera"] == "left"
    alice = ca.node("client", "alice")
    sent = (await state(node_address, alice)).sent
    async with asyncio.timeout(PATIENCE_S):
        while (await state(node_address, alice)).acknowledged <= sent:
            pass
    assert await node.end(signal.SIGTERM) == 0
    assert await decoder.end(signal.SIGTERM) == 0
    done = json.loads(node.output[node.output.rindex("\ndone ") + 6 :].splitlines()[0])
    assert done["calls"] == 2
    assert done["sent"] == done["acked"] > 0
    assert (done["failed"], done["unknown"]) == (0, 0)

    said = decoder.output + node.output
    assert [
        secret for secret in (*private_lines(tmp_path), *token.split("."), *bad.split(".")) if secret in said
    ] == []


async def test_a_node_is_told_what_is_wrong(
    start: Start, ca: pki.Authority, source: list[object], tmp_path: Path
) -> None:
    foreign = pki.Authority(tmp_path / "foreign")
    decoder = await start("decoder_service", ca.server(), "--listen", "127.0.0.1:0")
    await decoder.ready()
    address = f"127.0.0.1:{decoder.facts['port']}"
    for files, line in (
        (replace(foreign.node("camera", "left"), ca=ca.certificate), "refuses the certificate"),
        (foreign.node("camera", "left"), "is from none of the authorities in"),
        (None, "speaks TLS, and this side does not"),
    ):
        node = await start("encoder_service", files, *source, "--decoder", address, "--listen", "127.0.0.1:0")
        told = await node.logged("no decoder yet, trying again")
        assert line in told["error"]
        assert address in told["error"]
        await node.kill()


async def test_a_node_does_not_start_with_a_certificate_that_is_no_good(
    start: Start, ca: pki.Authority, source: list[object]
) -> None:
    cases = (
        (ca.node("camera", "left", valid=-pki.HOUR), "left", "expired on"),
        (ca.node("camera", "left"), "right", "is for camera rig/left, but this is camera rig/right"),
        (ca.node("side-information", "left"), "left", "but this is camera rig/left"),
        (replace(ca.node(), key=ca.node().key), "left", "does not belong to the certificate"),
    )
    nodes = [
        await start("encoder_service", files, *source, "--camera", camera, "--listen", "127.0.0.1:0")
        for files, camera, _ in cases
    ]
    for node, (_, _, line) in zip(nodes, cases, strict=True):
        assert await node.end() == 1
        last = node.output.splitlines()[-1]
        assert last.startswith("error: the ")
        assert line in last
