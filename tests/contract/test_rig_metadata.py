"""Every call about one rig says so in its metadata, by which a proxy keeps the rig at one decoder."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from ndsc.client import Client, SideReference
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.frames import Frame
from ndsc.service.channel import RIG_HEADER, open_channel
from ndsc.service.health import check_health
from ndsc.service.settings import load_settings
from ndsc.v1.catalog_pb2 import ListBundlesRequest
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub
from ndsc.viewer.rig import RigWatcher
from ndsc.viewer.settings import ViewerSettings
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import EPOCH_US, SideNode, side_open, until
from tests.contract.encoder_peer import PATIENCE_S, Nodes, Peer, run


class Calls(grpc.aio.ServerInterceptor):
    """What rig the calls of a server named, by method."""

    def __init__(self) -> None:
        self.rigs: defaultdict[str, list[str | None]] = defaultdict(list)
        self.arrived = asyncio.Event()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        named = dict(handler_call_details.invocation_metadata).get(RIG_HEADER)
        rig = named.decode() if isinstance(named, bytes) else named
        self.rigs[handler_call_details.method.rpartition("/")[2]].append(rig)
        self.arrived.set()
        return await continuation(handler_call_details)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Of the servers that are made from now on."""
    calls = Calls()
    monkeypatch.setattr(grpc.aio, "server", partial(grpc.aio.server, interceptors=(calls,)))
    return calls


async def test_nodes(
    calls: Calls, start_decoder: StartDecoder, make_node: Nodes, folder: Path, tmp_path: Path
) -> None:
    address = address_of(await start_decoder(pair_wait_ms=0))
    for settings in (
        {"role": "camera", "fetch_bundle": True, "bundle_cache": tmp_path / "bundles"},
        {"role": "side-information", "camera": "right"},
    ):
        await run(make_node(Peer(), folder, decoder=address, rig="rig-7", **settings))
    assert calls.rigs == {
        "GetBundle": ["rig-7"],
        "StreamFrames": ["rig-7"],
        "StreamSideInformation": ["rig-7"],
    }


async def test_the_client_names_the_rig_of_each_call(
    calls: Calls, decoder_address: str, compressed: CompressedFrame, side_picture: Frame
) -> None:
    def use(rig: str | None) -> None:
        with Client(decoder_address, rig=rig) as client:
            client.subscribe("rig").close()
            client.streams("rig")
            client.streams()
            client.bundles()
            client.decode(compressed, SideReference("rig", "right", EPOCH_US))
            client.decode(compressed)

    async with SideNode.connect(decoder_address) as side:
        await side.open(side_open(side_picture))
        await side.send(1, side_picture, EPOCH_US)
        await until(decoder_address, lambda streams: "right" in streams)
        calls.rigs.clear()
        for rig in (None, "other"):
            await asyncio.to_thread(use, rig)
    assert calls.rigs == {
        "Subscribe": ["rig", "rig"],
        "ListStreams": ["rig", None, "rig", "other"],
        "ListBundles": [None, "other"],
        "Decode": ["rig", None, "rig", "other"],
    }


async def test_the_viewer(calls: Calls, decoder_address: str) -> None:
    settings = load_settings(ViewerSettings, ["--decoder", decoder_address, "--rig", "rig-7"])
    watching = asyncio.create_task(RigWatcher(settings).run())
    async with asyncio.timeout(PATIENCE_S):
        while not calls.rigs.keys() >= {"Subscribe", "ListBundles", "ListStreams"}:
            calls.arrived.clear()
            await calls.arrived.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert {rig for rigs in calls.rigs.values() for rig in rigs} == {"rig-7"}


async def test_health_is_asked_of_one_rigs_decoder_or_of_any(calls: Calls, decoder_address: str) -> None:
    assert await check_health(decoder_address, rig="rig-7") == "SERVING"
    assert await check_health(decoder_address) == "SERVING"
    assert calls.rigs == {"Check": ["rig-7", None]}


async def test_what_is_no_name_is_left_to_the_server(calls: Calls, decoder_address: str) -> None:
    """gRPC would refuse such metadata with an error of its own."""
    async with open_channel(decoder_address, rig="Ü\n") as channel:
        await CatalogServiceStub(channel).ListBundles(ListBundlesRequest(), timeout=PATIENCE_S)
    assert calls.rigs == {"ListBundles": [None]}
