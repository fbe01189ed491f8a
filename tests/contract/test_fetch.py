"""Bundles for nodes: from a decoder that serves them, and from servers that lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from decoder_service.catalog import CatalogServicer
from decoder_service.decoding import Decoders
from decoder_service.streams import StreamRegistry
from encoder_service.fetch import fetch_bundle, last_fetched
from ndsc.codec.bundle import DECODER, MANIFEST, MAX_FILE_BYTES, Bundle, write_bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.errors import BundleError, OutputError
from ndsc.codec.frames import Frame, Geometry
from ndsc.service.authority import Authority
from ndsc.service.channel import open_channel
from ndsc.service.errors import ServiceError, UnreachableError
from ndsc.v1.catalog_pb2 import BundlePiece, GetBundleRequest, GetBundleResponse
from ndsc.v1.catalog_pb2_grpc import (
    CatalogServiceServicer,
    CatalogServiceStub,
    add_CatalogServiceServicer_to_server,
)

Serve = Callable[[CatalogServiceServicer], Awaitable[str]]


class Counted(CatalogServicer):
    """A decoder's catalog that counts how often it was asked for a bundle."""

    def __init__(self, *bundles: Bundle) -> None:
        super().__init__(
            decoders=Decoders(bundles), registry=StreamRegistry(1), authority=Authority(), provider="cpu"
        )
        self.asked = 0

    async def GetBundle(  # type: ignore[override]  # noqa: N802
        self, request: GetBundleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        self.asked += 1
        await super().GetBundle(request, context)


class Scripted(CatalogServiceServicer):
    """Answers with whatever it is told to, and knows when its caller has hung up."""

    def __init__(self, answers: Iterable[GetBundleResponse], *, then_wait: bool = False) -> None:
        self.answers = answers
        self.then_wait = then_wait
        self.left = asyncio.Event()

    async def GetBundle(  # type: ignore[override]  # noqa: N802
        self, request: GetBundleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        try:
            for answer in self.answers:
                await context.write(answer)
            if self.then_wait:
                await asyncio.Event().wait()
        finally:
            self.left.set()

    ListBundles = ListStreams = None  # type: ignore[assignment]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(servicer)` → its address."""
    async with AsyncExitStack() as stack:

        async def start(servicer: CatalogServiceServicer) -> str:
            server = grpc.aio.server()
            add_CatalogServiceServicer_to_server(servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
            return f"127.0.0.1:{port}"

        yield start


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


async def fetch(address: str, bitstream_id: bytes | None, cache: Path, **options: Any) -> Path:
    async with open_channel(address) as channel:
        return await fetch_bundle(channel, bitstream_id, cache, address=address, **options)


def manifest_of(bundle: Bundle) -> GetBundleResponse:
    return GetBundleResponse(manifest=bundle.files[MANIFEST])


def piece(name: str, data: bytes) -> GetBundleResponse:
    return GetBundleResponse(piece=BundlePiece(name=name, data=data))


def pieces_of(bundle: Bundle) -> dict[str, GetBundleResponse]:
    return {name: piece(name, bundle.files[name]) for name in bundle.manifest.listed("encoder")}


def kept(cache: Path) -> list[str]:
    """What a cache holds beside its lock and the name of the last preferred bundle."""
    own = {".lock", ".last"}
    return sorted(path.name for path in cache.iterdir() if path.name not in own) if cache.exists() else []


@pytest.fixture(scope="session")
def larger_bundle(tiny_parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Another bitstream, with an encoder of two pieces and a bit."""
    encoder = np.random.default_rng(3).bytes((2 << 20) + 17)
    parts = tiny_parts | {"geometry": Geometry(8, 1024, 1 << 20), "encoder_onnx": encoder, "name": "larger"}
    return write_bundle(tmp_path_factory.mktemp("bundles") / "larger", **parts)


async def test_a_fetched_bundle_encodes_what_the_decoder_decodes(
    serve: Serve, tiny_bundle: Bundle, cache: Path, noise_frame: Frame
) -> None:
    address = await serve(Counted(tiny_bundle))
    folder = await fetch(address, tiny_bundle.bitstream_id, cache)
    assert folder == cache / tiny_bundle.bitstream_id.hex()
    assert sorted(path.name for path in folder.iterdir()) == sorted({*tiny_bundle.files} - {DECODER})
    fetched = Bundle.load(folder, "encoder")
    assert fetched.bundle_id == tiny_bundle.bundle_id
    compressed = FrameEncoder(fetched).encode(noise_frame)
    decoder = FrameDecoder(tiny_bundle)
    mine = decoder.decode(FrameEncoder(tiny_bundle).encode(noise_frame))
    np.testing.assert_array_equal(decoder.decode(compressed), mine)
    with pytest.raises(BundleError, match="without its decoder"):
        FrameDecoder(fetched)


async def test_files_come_in_pieces_of_a_mebibyte(serve: Serve, larger_bundle: Bundle, cache: Path) -> None:
    address = await serve(Counted(larger_bundle))
    async with open_channel(address) as channel:
        answers = [answer async for answer in CatalogServiceStub(channel).GetBundle(GetBundleRequest())]
    assert [answer.WhichOneof("part") for answer in answers].index("manifest") == 0
    sizes = [len(answer.piece.data) for answer in answers if answer.piece.name == "encoder.onnx"]
    assert sizes == [1 << 20, 1 << 20, 17]
    folder = await fetch(address, None, cache)
    assert (folder / "encoder.onnx").read_bytes() == larger_bundle.encoder_onnx


async def test_the_first_bundle_served_is_the_preferred_one(
    serve: Serve, tiny_bundle: Bundle, larger_bundle: Bundle, cache: Path
) -> None:
    address = await serve(Counted(larger_bundle, tiny_bundle))
    assert (await fetch(address, None, cache)).name == larger_bundle.bitstream_id.hex()
    assert (await fetch(address, tiny_bundle.bitstream_id, cache)).name == tiny_bundle.bitstream_id.hex()
    assert len(kept(cache)) == 2


async def test_the_bundle_preferred_last_is_known_without_the_decoder(
    serve: Serve, tiny_bundle: Bundle, larger_bundle: Bundle, cache: Path
) -> None:
    assert last_fetched(cache) is None
    address = await serve(Counted(larger_bundle, tiny_bundle))
    await fetch(address, None, cache)
    await fetch(address, tiny_bundle.bitstream_id, cache)  # not the preferred one
    known = last_fetched(cache)
    assert known is not None
    assert known.name == larger_bundle.bitstream_id.hex()
    (known / "encoder.onnx").write_bytes(b"damaged")
    assert last_fetched(cache) is None


async def test_a_bundle_that_is_there_is_used_without_asking(
    serve: Serve, tiny_bundle: Bundle, cache: Path
) -> None:
    catalog = Counted(tiny_bundle)
    address = await serve(catalog)
    first = await fetch(address, tiny_bundle.bitstream_id, cache)
    made = first.stat().st_mtime_ns
    assert await fetch(address, tiny_bundle.bitstream_id, cache) == first
    assert catalog.asked == 1
    # Without a name the decoder must be asked which, and no file travels again.
    assert await fetch(address, None, cache) == first
    assert catalog.asked == 2
    assert first.stat().st_mtime_ns == made
    # Nor must a decoder be there at all.
    assert await fetch("127.0.0.1:1", tiny_bundle.bitstream_id, cache) == first


async def test_a_damaged_bundle_in_the_cache_is_replaced(
    serve: Serve, tiny_bundle: Bundle, cache: Path
) -> None:
    address = await serve(Counted(tiny_bundle))
    folder = await fetch(address, tiny_bundle.bitstream_id, cache)
    for damage in (
        lambda: (folder / "prior.json").write_bytes(b"{}"),
        lambda: (folder / "encoder.onnx").unlink(),
        lambda: (folder / MANIFEST).write_bytes(b""),
    ):
        damage()
        assert await fetch(address, tiny_bundle.bitstream_id, cache) == folder
        assert Bundle.load(folder, "encoder").bundle_id == tiny_bundle.bundle_id
    assert kept(cache) == [folder.name]


async def test_a_better_encoder_of_the_same_bitstream_replaces_the_one_before(
    serve: Serve, tiny_bundle: Bundle, tiny_parts: dict[str, Any], tmp_path: Path, cache: Path
) -> None:
    await fetch(await serve(Counted(tiny_bundle)), None, cache)
    better = write_bundle(tmp_path / "better", **tiny_parts | {"encoder_onnx": b"better"})
    folder = await fetch(await serve(Counted(better)), None, cache)
    assert Bundle.load(folder, "encoder").bundle_id == better.bundle_id
    assert kept(cache) == [tiny_bundle.bitstream_id.hex()]


async def test_nodes_that_share_a_cache_may_fetch_at_once(
    serve: Serve, tiny_bundle: Bundle, cache: Path
) -> None:
    address = await serve(Counted(tiny_bundle))
    folders = await asyncio.gather(*(fetch(address, None, cache) for _ in range(8)))
    assert set(folders) == {cache / tiny_bundle.bitstream_id.hex()}
    assert Bundle.load(folders[0], "encoder").bundle_id == tiny_bundle.bundle_id
    assert kept(cache) == [folders[0].name]


async def test_an_unknown_bitstream_is_refused(serve: Serve, tiny_bundle: Bundle, cache: Path) -> None:
    address = await serve(Counted(tiny_bundle))
    with pytest.raises(ServiceError, match="not served here, only") as refused:
        await fetch(address, bytes(16), cache)
    assert (refused.value.reason, refused.value.retryable) == ("BITSTREAM_UNKNOWN", False)
    with pytest.raises(ServiceError, match="16 bytes") as invalid:
        await fetch(address, b"short", cache)
    assert invalid.value.reason == "FIELD_INVALID"
    assert kept(cache) == []


async def test_no_decoder_there(cache: Path) -> None:
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        await fetch("127.0.0.1:1", None, cache)


def lies(honest: Bundle, other: Bundle) -> Iterator[tuple[str, list[GetBundleResponse], str]]:
    """(what is wrong, what the server sends, what the error says)."""
    manifest, pieces = manifest_of(honest), pieces_of(honest)
    encoder = honest.encoder_onnx
    but_encoder = [answer for name, answer in pieces.items() if name != "encoder.onnx"]
    changed = bytes([encoder[0] ^ 1]) + encoder[1:]
    yield "another bitstream", [manifest_of(other), *pieces_of(other).values()], "it is for bitstream"
    yield (
        "a changed file",
        [manifest, *but_encoder, piece("encoder.onnx", changed)],
        "encoder.onnx is not the file",
    )
    yield (
        "a file too long",
        [manifest, piece("encoder.onnx", encoder + b"x")],
        "encoder.onnx does not come in",
    )
    yield "a file too short", [manifest, *but_encoder, piece("encoder.onnx", encoder[:-1])], "it ends early"
    yield (
        "a file twice",
        [manifest, pieces["encoder.onnx"], pieces["encoder.onnx"]],
        "encoder.onnx does not come in",
    )
    yield "an empty piece", [manifest, piece("encoder.onnx", b"")], "encoder.onnx does not come in"
    yield "a path", [manifest, piece("../encoder.onnx", encoder)], r"lists no file '\.\./encoder\.onnx'"
    yield "an absolute path", [manifest, piece("/tmp/x", b"x")], "lists no file '/tmp/x'"
    yield "the decoder", [manifest, piece(DECODER, honest.decoder_onnx)], "lists no file 'decoder.onnx'"
    yield "the manifest as a file", [manifest, piece(MANIFEST, b"{}")], "lists no file 'manifest.json'"
    yield "the manifest twice", [manifest, manifest], "lists no file ''"
    yield "no manifest", [pieces["encoder.onnx"]], "manifest.json is not one"
    yield "nothing", [], "it ends early"
    yield "no JSON", [GetBundleResponse(manifest=b"\xff")], "manifest.json is not one"
    yield "a huge manifest", [GetBundleResponse(manifest=bytes(2 << 20))], "its manifest takes 2097152 bytes"
    named = honest.files[MANIFEST].replace(b'"encoder.onnx"', b'"../encoder.onnx"')
    yield "a path in the manifest", [GetBundleResponse(manifest=named)], "manifest.json is not one"
    size = b'"bytes": %d' % len(encoder)
    huge = honest.files[MANIFEST].replace(size, b'"bytes": %d' % MAX_FILE_BYTES)
    assert huge != honest.files[MANIFEST]
    yield "a huge bundle", [GetBundleResponse(manifest=huge)], f"more than {MAX_FILE_BYTES}"


async def test_what_a_lying_server_sends_is_refused(
    serve: Serve, tiny_bundle: Bundle, larger_bundle: Bundle, cache: Path, tmp_path: Path
) -> None:
    """Each lie is one clear error that names the server, and leaves nothing behind, in the cache or beside it."""
    for what, answers, message in lies(tiny_bundle, larger_bundle):
        address = await serve(Scripted(answers))
        with pytest.raises(BundleError, match=message) as refused:
            await fetch(address, tiny_bundle.bitstream_id, cache)
        assert address in str(refused.value), what
        assert "\n" not in str(refused.value), what
        assert kept(cache) == [], what
    assert kept(tmp_path) == []


async def test_endless_pieces_end_with_the_listed_size(
    serve: Serve, tiny_bundle: Bundle, cache: Path
) -> None:
    def endless() -> Iterator[GetBundleResponse]:
        yield manifest_of(tiny_bundle)
        while True:
            yield piece("encoder.onnx", b"x" * 64)

    server = Scripted(endless())
    with pytest.raises(BundleError, match=r"encoder\.onnx does not come in"):
        await fetch(await serve(server), None, cache)
    await server.left.wait()


async def test_what_follows_the_last_file_is_not_waited_for(
    serve: Serve, tiny_bundle: Bundle, cache: Path
) -> None:
    server = Scripted([manifest_of(tiny_bundle), *pieces_of(tiny_bundle).values()], then_wait=True)
    folder = await fetch(await serve(server), None, cache)
    assert Bundle.load(folder, "encoder").bundle_id == tiny_bundle.bundle_id
    await server.left.wait()


async def test_a_silent_server_is_given_up(serve: Serve, tiny_bundle: Bundle, cache: Path) -> None:
    server = Scripted([manifest_of(tiny_bundle)], then_wait=True)
    with pytest.raises(ServiceError, match=r"sent nothing more of its bundle for 0\.1 s") as silent:
        await fetch(await serve(server), None, cache, silence_s=0.1)
    assert silent.value.retryable
    await server.left.wait()
    assert kept(cache) == []


async def test_a_cache_that_cannot_be_written(serve: Serve, tiny_bundle: Bundle, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(b"a file")
    with pytest.raises(OutputError, match="cannot keep a bundle in"):
        await fetch(await serve(Counted(tiny_bundle)), None, cache)
