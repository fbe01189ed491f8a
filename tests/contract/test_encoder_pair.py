"""Camera nodes and the decoder server as real processes on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.frames import read_image, write_image
from ndsc.service.channel import open_channel
from ndsc.service.control import get_node
from ndsc.v1 import catalog_pb2
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub
from tests.contract.service_process import Service, free_port

WIDTH, HEIGHT, COUNT = 40, 24, 12
PATIENCE_S = 30
EPOCH_S = "1700000000"
ACCOUNT = ("captured", "sent", "acked", "failed", "dropped", "unknown", "waiting")


class Services:
    """Starts processes, and ends those that are left. The decoder comes back at the same port."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.folder = folder
        self._bundle = bundle
        self._started: list[Service] = []
        self._port = free_port()

    @property
    def decoder_address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def decoder(self, *flags: object) -> Service:
        service = await Service.start(
            *("decoder_service", "--bundle", self._bundle, "--write-frames", self.folder / "decoded"),
            *("--listen", self.decoder_address, *flags),
        )
        self._started.append(service)
        await service.line("ready")
        return service

    async def node(self, source: Path, *flags: object) -> Service:
        service = await Service.start(
            *("encoder_service", "--bundle", self._bundle, "--decoder", self.decoder_address),
            *("--source", source, "--epoch", EPOCH_S, "--reconnect-max-s", 0.3, *flags),
        )
        self._started.append(service)
        return service

    async def streams(self) -> dict[str, catalog_pb2.StreamInfo]:
        async with open_channel(self.decoder_address) as channel:
            answer = await CatalogServiceStub(channel).ListStreams(
                catalog_pb2.ListStreamsRequest(), timeout=10
            )
        return {stream.camera: stream for stream in answer.streams}

    def decoded(self, camera: str = "left") -> list[int]:
        """Sequences of the decoded frames, which must be of one session."""
        paths = list((self.folder / "decoded" / "rig" / camera).rglob("*.png"))
        assert len({path.parent for path in paths}) <= 1
        return sorted(int(path.stem) for path in paths)

    async def until_decoded(self, count: int) -> None:
        """Wait until so many frames of the left camera are there."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.decoded()) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        for service in self._started:
            await service.kill()


@pytest.fixture
async def services(tiny_bundle_path: Path, tmp_path: Path) -> AsyncIterator[Services]:
    services = Services(tiny_bundle_path, tmp_path)
    try:
        yield services
    finally:
        await services.kill()


def picture(view: str, number: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng([number, ["left", "right"].index(view)])
    coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for view in ("left", "right"):
        (tmp_path / view).mkdir()
        for number in range(COUNT):
            write_image(tmp_path / view / f"{number:03d}.png", picture(view, number))
    return tmp_path


RIGHT = ("--role", "side-information", "--camera", "right", "--side-format", "png", "--pace", "credit")


async def test_every_frame_is_decoded_with_its_side_information_and_accounted(
    services: Services, pairs: Path, tiny_bundle: Bundle
) -> None:
    decoder = await services.decoder()
    right = await services.node(pairs / "right", *RIGHT)
    await right.line("ready")
    held = await right.line("done")
    assert await right.end() == (0, "", "")
    left = await services.node(pairs / "left", "--pace", "credit", "--rate-level", "2")
    await left.line("ready")
    sent = await left.line("done")
    assert await left.end() == (0, "", "")

    for done in (held, sent):
        assert [done[name] for name in ACCOUNT] == [COUNT, COUNT, COUNT, 0, 0, 0, 0]
    streams = await services.streams()
    assert (streams["left"].received, streams["left"].decoded, streams["left"].failed) == (COUNT, COUNT, 0)
    assert streams["left"].dropped == 0
    assert streams["left"].received_bytes == sent["payload_bytes"]
    assert streams["left"].session_id.hex() == sent["session"]
    assert streams["right"].received == COUNT
    # The node counts Image messages, the decoder the data in them.
    assert 0 < held["payload_bytes"] - streams["right"].received_bytes <= 16 * COUNT

    paths = sorted((pairs / "decoded").rglob("*.png"), key=lambda path: int(path.stem))
    assert [int(path.stem) for path in paths] == list(range(1, COUNT + 1))
    encoder, reference = FrameEncoder(tiny_bundle), FrameDecoder(tiny_bundle)
    for number, path in enumerate(paths):
        compressed = encoder.encode(picture("left", number), 2)
        expected = reference.decode(compressed, picture("right", number))
        np.testing.assert_array_equal(read_image(path), expected)
        assert not np.array_equal(expected, reference.decode(compressed)), (
            "side information has no effect here"
        )

    decoder.terminate()
    assert await decoder.end() == (0, "", "")


async def test_two_nodes_in_real_time_are_accounted_whatever_is_dropped(
    services: Services, pairs: Path
) -> None:
    await services.decoder("--credit-frames", "1")
    live = ("--loop", "--fps", "100", "--limit", "60", "--queue-frames", "1")
    right = await services.node(pairs / "right", *RIGHT, "--pace", "realtime", *live)
    left = await services.node(pairs / "left", *live)
    for node in (right, left):
        await node.line("ready")
        done = await node.line("done")
        assert await node.end() == (0, "", "")
        stream = (await services.streams())[done["camera"]]
        assert done["captured"] == 60 == done["sent"] + done["dropped"]
        assert done["sent"] == done["acked"] == stream.received
        assert done["failed"] == stream.failed == 0
    assert stream.decoded == done["sent"]
    # Frames dropped after the last one that was sent are known to the node alone.
    assert stream.dropped <= done["dropped"]


FOREVER = ("--loop", "--fps", 50, "--side-information", "none")


@pytest.mark.parametrize("killed", [False, True])
async def test_a_live_node_goes_on_by_itself_when_the_decoder_is_back(
    services: Services, pairs: Path, killed: bool
) -> None:
    decoder = await services.decoder()
    node = await services.node(pairs / "left", *FOREVER)
    await node.line("ready")
    await services.until_decoded(5)
    if killed:
        await decoder.kill()
    else:
        decoder.terminate()
        assert await decoder.end() == (0, "", "")
    before = services.decoded()
    await services.decoder()
    await services.until_decoded(len(before) + 5)
    node.terminate()
    done = await node.line("done")
    assert await node.end() == (0, "", "")
    stream = (await services.streams())["left"]

    decoded = services.decoded()
    assert done["calls"] == 2
    assert done["captured"] == done["sent"] + done["dropped"]
    assert done["sent"] == done["acked"] + done["unknown"]
    if not killed:
        assert done["unknown"] == 0, "a decoder that drains acknowledges all it took"
    assert done["acked"] <= len(decoded) <= done["acked"] + done["unknown"]
    assert stream.decoded == len(decoded) - len(before)
    assert min(set(decoded) - set(before)) > max(before)


@pytest.mark.parametrize("killed", [False, True])
async def test_an_archive_node_loses_nothing_while_the_decoder_is_gone(
    services: Services, pairs: Path, tmp_path: Path, killed: bool
) -> None:
    archive = ("--archive", tmp_path / "archive", "--archive-pair-wait-ms", 0)
    decoder = await services.decoder(*archive)
    node = await services.node(
        *(pairs / "left", *FOREVER, "--limit", 80, "--delivery", "archive", "--spool", tmp_path / "spool")
    )
    address = f"127.0.0.1:{(await node.line('ready'))['port']}"
    await services.until_decoded(5)
    if killed:
        await decoder.kill()
    else:
        decoder.terminate()
        assert await decoder.end() == (0, "", "")
    async with asyncio.timeout(PATIENCE_S):
        while (await get_node(address))["waiting"] < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert not (await get_node(address))["connected"]
    await services.decoder(*archive)
    done = await node.line("done")
    assert await node.end() == (0, "", "")
    assert done["captured"] == 80 == done["sent"] + done["dropped"]
    assert done["sent"] == done["acked"]
    assert (done["failed"], done["unknown"], done["waiting"]) == (0, 0, 0)
    await services.until_decoded(done["sent"])
    assert services.decoded() == list(range(1, done["sent"] + 1))
    assert (await services.streams())["left"].failed == 0


async def test_a_node_whose_camera_another_one_takes_over_ends_with_the_reason(
    services: Services, pairs: Path
) -> None:
    await services.decoder()
    first = await services.node(pairs / "left", "--loop")
    await first.line("ready")
    second = await services.node(pairs / "left", "--loop")
    await second.line("ready")
    await first.line("done")
    code, _, err = await first.end()
    assert code == 1
    assert err.startswith(f"error: the decoder at {services.decoder_address} ended the session: ")
    assert err.endswith(" (SESSION_SUPERSEDED)\n")
    assert err.count("\n") == 1
    second.terminate()
    done = await second.line("done")
    assert await second.end() == (0, "", "")
    assert done["sent"] == done["acked"]


async def test_a_bundle_that_the_decoder_does_not_serve_is_one_clear_line(
    services: Services, pairs: Path, tiny_parts: dict[str, Any], tmp_path: Path
) -> None:
    await services.decoder()
    other = write_bundle(tmp_path / "other", **{**tiny_parts, "rate_levels": (3,)})
    node = await services.node(pairs / "left", "--bundle", str(other.path))
    code, _, err = await node.end()
    assert code == 1
    assert other.bitstream_id.hex() in err
    assert err.endswith(" (BITSTREAM_UNKNOWN)\n")
    assert err.count("\n") == 1


async def test_a_node_that_may_fetch_bundles_needs_none(
    services: Services, pairs: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    await services.decoder()
    node = await Service.start(
        *("encoder_service", "--decoder", services.decoder_address, "--source", pairs / "left"),
        *("--pace", "credit", "--side-information", "none", "--fetch-bundle"),
        *("--bundle-cache", tmp_path / "cache"),
    )
    await node.line("ready")
    done = await node.line("done")
    assert await node.end() == (0, "", "")
    assert done["acked"] == COUNT
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [
        tiny_bundle.bitstream_id.hex()
    ]
