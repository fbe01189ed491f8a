"""A decoder server in this process, on a free loopback port, with the tiny bundle; a scripted one for nodes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoder_service import batching, server
from decoder_service.archive import Archive
from decoder_service.server import DecoderServer
from decoder_service.settings import DecoderSettings
from encoder_service import node
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder, Indices
from ndsc.codec.frames import Frame, write_image
from ndsc.codec.prior import StaticPrior
from tests.contract import encoder_peer
from tests.contract.encoder_peer import Nodes, Peer, ScriptedSource, serve
from tests.tiny_bundle import CODEBOOK_SIZES

StartDecoder = Callable[..., Awaitable[DecoderServer]]
MakeGate = Callable[[type, str], "Gate"]


def address_of(decoder: DecoderServer) -> str:
    return f"127.0.0.1:{decoder.server.port}"


def small_archive(monkeypatch: pytest.MonkeyPatch, capacity_bytes: int) -> None:
    """Servers get an archive smaller than the settings allow."""

    def make(settings: DecoderSettings, folder: Path) -> Archive:
        return Archive(folder, capacity_bytes=capacity_bytes, keep_us=1 << 40, tolerance_us=50_000)

    monkeypatch.setattr(server, "_open_archive", make)


async def stop(decoder: DecoderServer) -> None:
    """End a server at once, so that another one can have its archive."""
    await decoder.server.stop()
    await decoder.close()


@pytest.fixture
async def start_decoder(tiny_bundle_path: Path) -> AsyncIterator[StartDecoder]:
    """`await start_decoder(pair_wait_ms=0, …)` → a started DecoderServer, warm unless `warm=False`."""
    async with AsyncExitStack() as stack:

        async def start(*, warm: bool = True, **settings: Any) -> DecoderServer:
            values: dict[str, Any] = {"listen": "127.0.0.1:0", "bundle": (tiny_bundle_path,), "threads": 1}
            decoder = DecoderServer.load(DecoderSettings(**(values | settings)))
            stack.push_async_callback(decoder.close)
            await decoder.start()
            stack.push_async_callback(decoder.server.stop)
            if warm:
                await decoder.warm_up()
            return decoder

        yield start


@pytest.fixture
async def decoder_address(start_decoder: StartDecoder) -> str:
    """host:port of a running decoder with default settings."""
    return address_of(await start_decoder())


@pytest.fixture(scope="session")
def tiny_encoder(tiny_bundle: Bundle) -> FrameEncoder:
    return FrameEncoder(tiny_bundle)


@pytest.fixture(scope="session")
def tiny_decoder(tiny_bundle: Bundle) -> FrameDecoder:
    """The same decoder as the server's, for what its pictures must be."""
    return FrameDecoder(tiny_bundle)


@pytest.fixture(scope="session")
def picture() -> Frame:
    """uint8 [24, 40, 3]: the source frame x."""
    return np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def side_picture() -> Frame:
    """uint8 [24, 40, 3]: the side information y."""
    return np.random.default_rng(2).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def compressed(tiny_encoder: FrameEncoder, picture: Frame) -> CompressedFrame:
    return tiny_encoder.encode(picture)


@pytest.fixture
def held_decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Decoding stands still until this event is set; it is set at the end of the test in any case."""
    go_on = threading.Event()
    decode = batching._decode

    def held(
        decoder: FrameDecoder, indices: list[Indices], side: list[Frame | None]
    ) -> Sequence[Frame | Exception]:
        go_on.wait()
        return decode(decoder, indices, side)

    monkeypatch.setattr(batching, "_decode", held)
    yield go_on
    go_on.set()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A scripted decoder that serves."""
    async with serve(Peer(heartbeat_ms=100)) as peer:
        yield peer


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedSource:
    """What every node in this process opens as its source."""
    source = ScriptedSource()
    monkeypatch.setattr(node, "open_source", lambda *_args, **_more: source)
    return source


@pytest.fixture
def make_node(tiny_bundle_path: Path) -> Nodes:
    """`make_node(peer, source, pace="realtime", …)` → a camera node in this process."""
    return Nodes(tiny_bundle_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures."""
    path = tmp_path / "frames"
    path.mkdir()
    for number in range(10):
        write_image(path / f"{number:03d}.png", encoder_peer.picture(number))
    return path


class Gate:
    """Where threads that call a function stand still until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        self.reached.set()
        self._open.wait()

    async def wait_until_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 20)


@pytest.fixture
def make_gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeGate]:
    """`make_gate(Archive, "store")` → a Gate before that method; open at the end of the test in any case."""
    gates: list[Gate] = []

    def make(owner: type, name: str) -> Gate:
        gate, method = Gate(), getattr(owner, name)

        def held(*arguments: Any, **named: Any) -> Any:
            gate.pass_through()
            return method(*arguments, **named)

        monkeypatch.setattr(owner, name, held)
        gates.append(gate)
        return gate

    yield make
    for gate in gates:
        gate.open()


@pytest.fixture(scope="session")
def other_bundle(tiny_parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with another prior, and so another bitstream."""
    prior = StaticPrior.from_counts([np.arange(size, 0, -1) for size in CODEBOOK_SIZES])
    path = tmp_path_factory.mktemp("bundles") / "other"
    return write_bundle(path, **(tiny_parts | {"name": "other", "prior": prior}))
