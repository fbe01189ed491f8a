"""The proxy of deploy/kubernetes beside a name server: a rig has one home, leaves it as one, comes back as one."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.request import urlopen

import grpc
import grpc.aio
import pytest

from ndsc.service.channel import open_channel
from ndsc.service.health import check_health
from ndsc.service.server import ServiceServer, create_server
from ndsc.service.tls import Certificates, load_certificates, watch_certificates
from ndsc.v1 import frame_stream_pb2_grpc, side_information_pb2_grpc
from ndsc.v1.frame_stream_pb2 import Open, Opened, StreamFramesRequest, StreamFramesResponse
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceStub
from ndsc.v1.side_information_pb2 import (
    SideInformationOpen,
    SideInformationOpened,
    StreamSideInformationRequest,
    StreamSideInformationResponse,
)
from ndsc.v1.side_information_pb2_grpc import SideInformationServiceStub
from tests.contract.service_process import free_port
from tests.e2e.conftest import ROOT
from tests.pki import Authority

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(240)]

Mode = Literal["plaintext", "tls"]

CONFIGURATIONS: Final = {"plaintext": "base", "tls": "overlays/tls"}
DOMAIN: Final = "decoder.ndsc.svc.cluster.local"
RIGS: Final = ("rig", "yard", "gate", "lane", "rig-2")
"""At least one of every home, by their own names and by those below decoder.example."""
PATIENCE_S: Final = 60.0


class NameServer(asyncio.DatagramProtocol):
    """Answers for what `addresses` has; nothing else is there."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        question = data[12 : at + 5]
        address = self.addresses.get(".".join(labels))
        answer = b""
        if address is not None and question[-4:-2] == b"\x00\x01":  # of type A, for five seconds
            answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04" + socket.inet_aton(address)
        flags = b"\x85\x83" if address is None else b"\x85\x80"
        counts = bytes([0, 1, 0, 1 if answer else 0, 0, 0, 0, 0])
        self._transport.sendto(data[:2] + flags + counts + question + answer, addr)


class Streams(
    frame_stream_pb2_grpc.FrameStreamServiceServicer,
    side_information_pb2_grpc.SideInformationServiceServicer,
):
    """Opens every stream, saying which decoder this is, and never ends one."""

    def __init__(self, number: int) -> None:
        self._number = number

    async def StreamFrames(self, requests: Any, context: Any) -> AsyncIterator[StreamFramesResponse]:  # noqa: N802
        await anext(requests)
        yield StreamFramesResponse(opened=Opened(next_sequence=self._number))
        await asyncio.Event().wait()

    async def StreamSideInformation(  # noqa: N802
        self, requests: Any, context: Any
    ) -> AsyncIterator[StreamSideInformationResponse]:
        await anext(requests)
        yield StreamSideInformationResponse(opened=SideInformationOpened(next_sequence=self._number))
        await asyncio.Event().wait()


@dataclass
class Cluster:
    """Three decoders, their names, and a proxy in front of them."""

    mode: Mode
    folder: Path
    names: NameServer = field(default_factory=NameServer)
    port: int = field(default_factory=free_port)
    status_port: int = field(default_factory=free_port)
    decoders_port: int = field(default_factory=free_port)
    decoders: dict[int, ServiceServer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._authority = Authority(self.folder / "pki") if self.mode == "tls" else None

    async def start(self, number: int, address: str) -> None:
        """A decoder, which is found at an address from now on."""
        streams = Streams(number)

        def register(server: grpc.aio.Server) -> None:
            frame_stream_pb2_grpc.add_FrameStreamServiceServicer_to_server(streams, server)
            side_information_pb2_grpc.add_SideInformationServiceServicer_to_server(streams, server)

        certificates = None
        if self._authority is not None:
            certificates = watch_certificates(self._authority.server(hosts=("*.decoder.example",)))
        self.decoders[number] = await create_server(
            listen=f"{address}:{self.decoders_port}",
            register=register,
            service_names=(),
            reflect=False,
            certificates=certificates,
        )
        await self.decoders[number].set_serving(True)
        self.names.addresses[f"decoder-{number}.{DOMAIN}"] = address

    async def end(self, number: int) -> None:
        """As a pod that is deleted: its name goes too."""
        del self.names.addresses[f"decoder-{number}.{DOMAIN}"]
        await self.decoders.pop(number).stop(0)

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[None]:
        """Run the shipped configuration at ports of ours, asking our name server."""
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self.names, local_addr=("127.0.0.1", 0)
        )
        asked = transport.get_extra_info("sockname")[1]
        text = (ROOT / "deploy" / "kubernetes" / CONFIGURATIONS[self.mode] / "haproxy.cfg").read_text()
        for shipped, ours in {
            "  parse-resolv-conf": f"  nameserver ours 127.0.0.1:{asked}",
            "bind :50051": f"bind 127.0.0.1:{self.port}",
            "bind :8405": f"bind 127.0.0.1:{self.status_port}",
        }.items():
            assert text.count(shipped) == 1
            text = text.replace(shipped, ours)
        text = re.sub(r'local:50051"', f'local:{self.decoders_port}"', text)
        (self.folder / "haproxy.cfg").write_text(text)
        with (self.folder / "haproxy.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *("haproxy", "-db", "-f", str(self.folder / "haproxy.cfg")),
                stdout=log,
                stderr=log,
                env=os.environ | {"NAMESPACE": "ndsc"},
            )
        try:
            yield
        finally:
            process.terminate()
            await process.wait()
            transport.close()
            for server in self.decoders.values():
                await server.stop(0)

    def up(self) -> list[int]:
        """Decoders that the proxy may use."""
        try:
            with urlopen(f"http://127.0.0.1:{self.status_port}/metrics", timeout=5) as answer:
                text: str = answer.read().decode()
        except OSError:
            return []
        state = r'^haproxy_server_status\{proxy="home-(\d)",server="decoder-\1",state="UP"\} 1$'
        return sorted(int(number) for number in re.findall(state, text, re.MULTILINE))

    def certificates(self, rig: str) -> Certificates | None:
        return None if self._authority is None else load_certificates(self._authority.node(rig=rig))


class Stream:
    """One of a rig's, that is opened again when it ends, as nodes do."""

    def __init__(self, cluster: Cluster, rig: str, kind: Literal["camera", "side"]) -> None:
        self.rig = rig
        self.at: int | None = None
        """The decoder that it is open at."""
        self.visited: list[int] = []
        self._cluster = cluster
        self._kind = kind

    async def run(self) -> None:
        name = f"{self.rig}.decoder.example"
        certificates = self._cluster.certificates(self.rig)
        while True:
            address = f"127.0.0.1:{self._cluster.port}"
            async with open_channel(address, certificates, name=name, rig=self.rig) as channel:
                try:
                    await self._follow(channel)
                except grpc.aio.AioRpcError:
                    pass
                finally:
                    self.at = None
            await asyncio.sleep(0.2)

    async def _follow(self, channel: grpc.aio.Channel) -> None:
        call: Any
        if self._kind == "camera":
            call = FrameStreamServiceStub(channel).StreamFrames()
            await call.write(StreamFramesRequest(open=Open(rig=self.rig)))
        else:
            call = SideInformationServiceStub(channel).StreamSideInformation()
            await call.write(StreamSideInformationRequest(open=SideInformationOpen(rig=self.rig)))
        answer = await call.read()
        if answer is not grpc.aio.EOF:
            self.at = answer.opened.next_sequence
            self.visited.append(self.at)
            await call.read()  # until it ends


async def until(condition: Callable[[], bool], streams: Sequence[Stream]) -> None:
    deadline_s = asyncio.get_running_loop().time() + PATIENCE_S
    while not condition():
        told = [(stream.rig, stream.visited) for stream in streams]
        assert asyncio.get_running_loop().time() < deadline_s, told
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("mode", ["plaintext", "tls"])
async def test_a_rig_stays_together(mode: Mode, tmp_path: Path) -> None:
    assert shutil.which("haproxy"), "apt-get install haproxy"
    cluster = Cluster(mode, tmp_path)
    streams = [Stream(cluster, rig, kind) for rig in RIGS for kind in ("camera", "side")]
    async with cluster.proxy(), asyncio.TaskGroup() as tasks:
        for number in range(3):
            await cluster.start(number, f"127.0.0.{number + 20}")
        await until(lambda: cluster.up() == [0, 1, 2], streams)
        running = [tasks.create_task(stream.run()) for stream in streams]
        await until(lambda: all(stream.at is not None for stream in streams), streams)
        home = {stream.rig: stream.at for stream in streams}
        assert [home[stream.rig] for stream in streams] == [stream.at for stream in streams]
        assert set(home.values()) == {0, 1, 2}

        gone = home["rig"]
        assert gone is not None
        of_gone = [stream for stream in streams if home[stream.rig] == gone]
        next_one = (gone + 1) % 3
        await cluster.end(gone)
        await until(lambda: all(stream.at == next_one for stream in of_gone), streams)

        await cluster.start(gone, f"127.0.0.{gone + 30}")
        await until(lambda: all(stream.at == gone for stream in of_gone), streams)
        for task in running:
            task.cancel()
    for stream in streams:
        expected = [home[stream.rig]]
        assert stream.visited == (expected if stream not in of_gone else [gone, next_one, gone])


async def test_a_stream_that_names_no_rig_is_refused(tmp_path: Path) -> None:
    cluster = Cluster("plaintext", tmp_path)
    async with cluster.proxy():
        await cluster.start(0, "127.0.0.20")
        await until(lambda: cluster.up() == [0], ())
        address = f"127.0.0.1:{cluster.port}"
        assert await check_health(address) == "SERVING"
        async with open_channel(address) as channel:
            call: Any = FrameStreamServiceStub(channel).StreamFrames()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
        # HAProxy cancels what it has answered before its end, and gRPC may see that first.
        assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED)


async def test_a_decoder_that_shuts_down_gets_no_more_calls(tmp_path: Path) -> None:
    cluster = Cluster("plaintext", tmp_path)
    before, after = Stream(cluster, "rig", "camera"), Stream(cluster, "rig", "side")
    async with cluster.proxy(), asyncio.TaskGroup() as tasks:
        for number in range(3):
            await cluster.start(number, f"127.0.0.{number + 20}")
        await until(lambda: cluster.up() == [0, 1, 2], ())
        running = [tasks.create_task(before.run())]
        await until(lambda: before.at == 0, [before])
        await cluster.decoders[0].set_serving(False)
        await until(lambda: cluster.up() == [1, 2], ())
        running.append(tasks.create_task(after.run()))
        await until(lambda: after.at is not None, [after])
        assert (before.visited, after.visited) == ([0], [1])  # it finishes with what it has
        for task in running:
            task.cancel()
