"""Many decoders behind a real proxy: deploy/scale, and what docs/operate/scaling.md says of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ndsc.codec.bundle import Bundle
from ndsc.service.channel import open_channel
from ndsc.service.health import check_health
from ndsc.service.server import ServiceServer, create_server
from ndsc.service.tls import load_certificates, watch_certificates
from ndsc.v1.catalog_pb2 import ListStreamsRequest, ListStreamsResponse, StreamInfo
from ndsc.v1.catalog_pb2_grpc import (
    CatalogServiceServicer,
    CatalogServiceStub,
    add_CatalogServiceServicer_to_server,
)
from tests.contract.service_process import Service
from tests.deploy.fleet import DECODERS
from tests.deploy.haproxy import CONFIGURATIONS, Mode, Proxy, certificate_environment, proxying
from tests.deploy.scale import MODES, run
from tests.pki import Authority
from tests.robustness.bundles import make_bundles
from tests.robustness.rig import free_port

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

HANGS_S = 15.0
"""Six seconds by the configuration, and a busy machine."""


@pytest.fixture(scope="module", autouse=True)
def _haproxy() -> None:
    assert shutil.which("haproxy"), "these tests need HAProxy: apt-get install haproxy"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundles(tmp_path_factory.mktemp("bundles")).present


@pytest.fixture
def proxy_certificate(tmp_path: Path) -> dict[str, str]:
    return certificate_environment(Authority(tmp_path / "pki").server(), tmp_path)


@pytest.mark.parametrize("mode", MODES)
async def test_a_rig_stays_together_and_no_frame_is_lost(mode: Mode, bundle: Bundle, tmp_path: Path) -> None:
    outcome = await run(tmp_path, mode, bundle)
    print(f"\n{outcome}")
    assert outcome.violations == []
    assert outcome.stored_at_death > 0
    for row in outcome.rows:
        assert row.sessions == 4
        assert 0 < row.moved < 4
        assert row.sent == row.decoded + row.failed + row.unknown
        assert row.lost == row.failed == 0
        assert row.unknown == 0 or row.delivery == "live"
    if mode == "tls":
        assert outcome.refusals["certificate of another rig"] == "PERMISSION_DENIED"
        assert outcome.refusals["certificate of another authority"] == "UNAVAILABLE"
    # A decoder would give a reason. HAProxy before 3.0.11 cuts the stream off before the caller has read why.
    refused = ("INVALID_ARGUMENT", "CANCELLED", "INTERNAL") if mode == "plaintext" else ("UNAVAILABLE",)
    assert outcome.refusals["no rig"] in refused


async def test_a_decoder_that_does_not_serve_gets_no_rig(bundle: Bundle, tmp_path: Path) -> None:
    """One without its GPU answers NOT_SERVING for ever; and one is not there at all."""
    ports = {f"decoder-{number}": free_port() for number in (1, 2, 3)}
    flags = ("--bundle", bundle.path, "--threads", 1)
    services = [
        await Service.start("decoder_service", *flags, "--listen", f"127.0.0.1:{ports['decoder-1']}"),
        await Service.start(
            *("decoder_service", *flags, "--listen", f"127.0.0.1:{ports['decoder-2']}"),
            *("--provider", "cuda"),
        ),
    ]
    try:
        await services[0].line("ready")
        async with proxying("plaintext", ports, tmp_path) as proxy:
            await proxy.wait_for("NOLB", "decoder-2")
            await proxy.wait_for("DOWN", "decoder-3")
            await proxy.wait_for("UP", "decoder-1")
            rigs = [f"rig-{number}" for number in range(20)]
            assert {await check_health(proxy.address, rig=rig) for rig in rigs} == {"SERVING"}
            assert await check_health(proxy.address) == "SERVING"
            metrics = proxy.get("/metrics")
            # One that hangs keeps its connections: the proxy ends its calls, so that callers go elsewhere.
            async with open_channel(proxy.address, rig="rig-1") as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                watch = stub.Watch(health_pb2.HealthCheckRequest())
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
                services[0].process.send_signal(signal.SIGSTOP)
                frozen_s = time.monotonic()
                with pytest.raises(grpc.aio.AioRpcError):
                    await watch.read()
                assert time.monotonic() - frozen_s < HANGS_S
    finally:
        for service in services:
            await service.kill()
    assert 'haproxy_server_status{proxy="decoders",server="decoder-1",state="UP"} 1' in metrics
    assert 'haproxy_server_status{proxy="decoders",server="decoder-2",state="NOLB"} 1' in metrics


class Decoder(CatalogServiceServicer):
    """In place of a decoder: tells who it is, in place of a list of streams."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def ListStreams(  # noqa: N802
        self, request: ListStreamsRequest, context: Any
    ) -> ListStreamsResponse:
        return ListStreamsResponse(streams=[StreamInfo(camera=self._name)])


class Decoders:
    """Some of them, each at its port."""

    def __init__(self, stack: AsyncExitStack, mode: Mode, folder: Path) -> None:
        self._stack = stack
        self._mode = mode
        self._authority = Authority(folder / "pki")
        self._files = self._authority.server(hosts=("*.decoder.example",))
        self._client = load_certificates(self._authority.node("client", "someone"))
        self._running: dict[str, ServiceServer] = {}
        self.ports = {f"decoder-{number}": free_port() for number in (1, 2, 3)}

    async def start(self, *names: str) -> None:
        for name in names:
            port = self.ports.setdefault(name, free_port())
            server = self._running[name] = await create_server(
                listen=f"127.0.0.1:{port}",
                register=partial(add_CatalogServiceServicer_to_server, Decoder(name)),  # type: ignore[abstract]
                service_names=(),
                reflect=False,
                certificates=watch_certificates(self._files) if self._mode == "tls" else None,
            )
            self._stack.push_async_callback(server.stop)
            await server.set_serving(True)

    async def stop(self, name: str) -> None:
        await self._running[name].stop()

    async def of(self, proxy: Proxy, rigs: Iterable[str]) -> dict[str, str]:
        """Where calls about each rig arrive."""
        return {rig: await self._of(proxy, rig) for rig in rigs}

    async def _of(self, proxy: Proxy, rig: str) -> str:
        tls = self._mode == "tls"
        certificates, name = (self._client, f"{rig}.decoder.example") if tls else (None, None)
        async with open_channel(proxy.address, certificates, name=name, rig=rig) as channel:
            answer = await CatalogServiceStub(channel).ListStreams(ListStreamsRequest(), timeout=10)
        return answer.streams[0].camera


@pytest.mark.parametrize("mode", MODES)
async def test_a_rig_moves_when_its_decoder_goes_and_at_no_other_time(mode: Mode, tmp_path: Path) -> None:
    names, rigs = DECODERS, [f"rig-{number}" for number in range(60)]
    async with AsyncExitStack() as stack:
        decoders = Decoders(stack, mode, tmp_path)
        await decoders.start(*names)
        proxy = await stack.enter_async_context(proxying(mode, decoders.ports, tmp_path))
        await proxy.wait_for("UP")
        first = await decoders.of(proxy, rigs)
        assert all(list(first.values()).count(name) >= len(rigs) / 6 for name in names), "they are spread"
        await decoders.stop("decoder-2")
        second = await decoders.of(proxy, rigs)  # at once: the first refused connection tells the proxy
        assert {rig for rig in rigs if first[rig] != second[rig]} == {
            rig for rig in rigs if first[rig] == "decoder-2"
        }
        await decoders.start("decoder-2")
        await proxy.wait_for("UP")
        assert await decoders.of(proxy, rigs) == second
        await proxy.reload()
        await proxy.wait_for("UP")
        assert await decoders.of(proxy, rigs) == second
        assert "decoder-2" in (await decoders.of(proxy, [f"new-{rig}" for rig in rigs])).values()


@pytest.mark.parametrize("mode", MODES)
async def test_one_decoder_more_takes_its_share_and_moves_no_others(mode: Mode, tmp_path: Path) -> None:
    rigs = [f"rig-{number}" for number in range(60)]
    places = []
    async with AsyncExitStack() as stack:
        decoders = Decoders(stack, mode, tmp_path)
        await decoders.start(*DECODERS, "decoder-4")
        for names in (DECODERS, (*DECODERS, "decoder-4")):
            ports = {name: decoders.ports[name] for name in names}
            async with proxying(mode, ports, tmp_path) as proxy:
                await proxy.wait_for("UP")
                places.append(await decoders.of(proxy, rigs))
    moved = {rig for rig in rigs if places[0][rig] != places[1][rig]}
    assert {places[1][rig] for rig in moved} == {"decoder-4"}
    assert len(rigs) / 8 < len(moved) < len(rigs) / 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asks", [False, True])
def test_shipped_configurations_are_valid(mode: Mode, asks: bool, proxy_certificate: dict[str, str]) -> None:
    """As they are, on a machine where no decoder has a name yet."""
    checked = subprocess.run(
        ["haproxy", "-c", "-f", CONFIGURATIONS / f"{mode}.cfg"],
        env=os.environ | (proxy_certificate if asks else {"NDSC_PROXY_CERTIFICATE": ""}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    warnings = [line for line in checked.stderr.splitlines() if "[WARNING]" in line]
    assert [line for line in warnings if "could not resolve address 'decoder-" not in line] == []
