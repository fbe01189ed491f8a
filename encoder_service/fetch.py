"""Gets the bundle that a camera node needs from the decoder it streams to, and keeps it in a folder."""

from __future__ import annotations

import asyncio
import fcntl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc.aio
import structlog

from ndsc.codec.bundle import MANIFEST, MAX_FILE_BYTES, MAX_MANIFEST_BYTES, Bundle, Manifest
from ndsc.codec.errors import BundleError, OutputError, printable
from ndsc.codec.files import write_whole
from ndsc.service.errors import ServiceError, service_error
from ndsc.v1.catalog_pb2 import GetBundleRequest, GetBundleResponse
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub

_LAST: Final = ".last"

SILENCE_S: Final = 30.0
"""Longest wait for the next piece. How long all of them take is up to the link."""

_log = structlog.get_logger(__name__)


async def fetch_bundle(
    channel: grpc.aio.Channel,
    bitstream_id: bytes | None,
    cache: Path,
    *,
    address: str,
    silence_s: float = SILENCE_S,
) -> Path:
    """The bundle of a bitstream, or the one that the decoder would rather have → its folder in the cache.

    The folder is named by the bitstream id in hexadecimal and holds no decoder: load it with
    `Bundle.load(folder, "encoder")`. One that is there already, and sound, is not fetched again; with a bitstream
    id, the decoder is not even asked. A fetched one takes its place whole, after every file has been found to have
    the size and SHA-256 that the manifest lists.

    Args:
        channel: to the decoder.
        bitstream_id: 16 bytes, or None for the bundle that the decoder would rather have.
        cache: folder of folders; made when it is not there.
        address: of the decoder, for messages.
        silence_s: longest wait for the next piece, in seconds.

    Raises:
        ServiceError: the decoder does not answer, or refuses (BITSTREAM_UNKNOWN).
        BundleError: what it sends is not that bundle, or not sound.
        OutputError: the cache cannot be written.
    """
    if bitstream_id is not None and await asyncio.to_thread(_held, cache, bitstream_id) is not None:
        return _folder(cache, bitstream_id)
    call = CatalogServiceStub(channel).GetBundle(GetBundleRequest(bitstream_id=bitstream_id or b""))
    answers = _Answers(call, address, silence_s)
    try:
        return await _fetch(answers, bitstream_id, cache)
    except grpc.aio.AioRpcError as error:
        raise service_error(error, address) from error
    finally:
        call.cancel()


def last_fetched(cache: Path) -> Path | None:
    """The folder of the bundle that a decoder preferred when one was last asked; None when it is not sound."""
    try:
        bitstream_id = bytes.fromhex((cache / _LAST).read_text())
    except (OSError, ValueError):
        return None
    return _folder(cache, bitstream_id) if _held(cache, bitstream_id) is not None else None


class _Answers:
    """The parts of a bundle, one after another, each within a time."""

    def __init__(self, call: Any, address: str, silence_s: float) -> None:
        self.address = address
        self._call = call
        self._silence_s = silence_s

    async def next(self) -> GetBundleResponse:
        """Raises ServiceError when nothing comes in time, BundleError when nothing will come any more."""
        try:
            async with asyncio.timeout(self._silence_s):
                answer = await self._call.read()
        except TimeoutError:
            raise ServiceError(
                f"{self.address} sent nothing more of its bundle for {self._silence_s:g} s",
                reason=grpc.StatusCode.DEADLINE_EXCEEDED.name,
                retryable=True,
            ) from None
        if answer is grpc.aio.EOF:
            raise self.unusable("it ends early")
        part: GetBundleResponse = answer
        return part

    def unusable(self, why: str) -> BundleError:
        return BundleError(
            f"the bundle that {self.address} sends cannot be used, {why}; give this node one with --bundle"
        )


async def _fetch(answers: _Answers, bitstream_id: bytes | None, cache: Path) -> Path:
    data = (await answers.next()).manifest
    if len(data) > MAX_MANIFEST_BYTES:
        raise answers.unusable(f"its manifest takes {len(data)} bytes")
    manifest = Manifest.parse(data, answers.address)
    found = manifest.bitstream.bitstream_id
    if bitstream_id not in (None, found):
        raise answers.unusable(f"it is for bitstream {found.hex()}, not {bitstream_id.hex()}")
    if await asyncio.to_thread(_held, cache, found) != manifest.bundle_id:
        files = {**await _receive(answers, manifest), MANIFEST: data}
        await asyncio.to_thread(Bundle, Path(answers.address), manifest, files)  # verifies
        await asyncio.to_thread(_keep, cache, found, files)
        _log.info("bundle fetched", decoder=answers.address, bundle=manifest.name, bitstream_id=found.hex())
    if bitstream_id is None:
        await asyncio.to_thread(write_whole, cache / _LAST, found.hex().encode())
    return _folder(cache, found)


async def _receive(answers: _Answers, manifest: Manifest) -> dict[str, bytes]:
    """The files, of the sizes that the manifest lists."""
    listed = {name: facts.bytes for name, facts in manifest.listed("encoder").items()}
    if sum(listed.values()) > MAX_FILE_BYTES:
        raise answers.unusable(f"it takes {sum(listed.values())} bytes, more than {MAX_FILE_BYTES}")
    files = {name: bytearray() for name in listed}
    while any(len(files[name]) < listed[name] for name in listed):
        answer = await answers.next()
        name, data = answer.piece.name, answer.piece.data
        if name not in listed:
            raise answers.unusable(f"its manifest lists no file {printable(name)!r}")
        if not data or len(files[name]) + len(data) > listed[name]:
            raise answers.unusable(
                f"{name} does not come in the {listed[name]} bytes that its manifest lists"
            )
        files[name] += data
    return {name: bytes(data) for name, data in files.items()}


def _folder(cache: Path, bitstream_id: bytes) -> Path:
    return cache / bitstream_id.hex()


def _held(cache: Path, bitstream_id: bytes) -> str | None:
    """The bundle id of the sound bundle that is held for a bitstream, or None."""
    try:
        bundle = Bundle.load(_folder(cache, bitstream_id), "encoder")
    except BundleError:
        return None
    return bundle.bundle_id if bundle.bitstream_id == bitstream_id else None


def _keep(cache: Path, bitstream_id: bytes, files: Mapping[str, bytes]) -> None:
    """Put a bundle in its place, whole or not at all; what stood there goes. Raises OutputError."""
    folder = _folder(cache, bitstream_id)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=cache, prefix=".") as temporary,
            (cache / ".lock").open("w") as lock,
        ):
            fresh, old = Path(temporary, "fresh"), Path(temporary, "old")
            fresh.mkdir()
            for name, data in files.items():
                (fresh / name).write_bytes(data)
            fcntl.flock(lock, fcntl.LOCK_EX)  # several nodes may share a cache
            if folder.exists():
                folder.rename(old)
            fresh.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot keep a bundle in {folder}: {error.strerror or error}") from error
