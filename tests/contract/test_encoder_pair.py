"""Camera nodes and the decoder server as real processes on loopback."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
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
from ndsc.v1 import catalog_pb2, decode_pb2
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub

WIDTH, HEIGHT, COUNT = 40, 24, 12
PATIENCE_S = 30
EPOCH_S = "1700000000"


class Service:
    """A service's process and the lines it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, module: str, *flags: str) -> Service:
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, "--listen", "127.0.0.1:0", "--log-level", "error", *flags),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def line(self, word: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            text = (await self.process.stdout.readline()).decode()
        assert text.startswith(word + " "), text
        facts: dict[str, Any] = json.loads(text.removeprefix(word))
        return facts

    async def end(self) -> tuple[int | None, str]:
        """(exit status, what it wrote to stderr)."""
        async with asyncio.timeout(PATIENCE_S):
            _, err = await self.process.communicate()
        return self.process.returncode, err.decode()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()


class Services:
    """Starts processes, and ends those that are left."""

    def __init__(self, bundle: Path, output: Path) -> None:
        self._bundle = str(bundle)
        self._output = str(output)
        self._started: list[Service] = []
        self.decoder_address = ""

    async def decoder(self, *flags: str) -> Service:
        service = await Service.start(
            "decoder_service", "--bundle", self._bundle, "--write-frames", self._output, *flags
        )
        self._started.append(service)
        self.decoder_address = f"127.0.0.1:{(await service.line('ready'))['port']}"
        return service

    async def node(self, source: Path, *flags: str) -> Service:
        service = await Service.start(
            *("encoder_service", "--bundle", self._bundle, "--decoder", self.decoder_address),
            *("--source", str(source), "--epoch", EPOCH_S, *flags),
        )
        self._started.append(service)
        return service

    async def streams(self) -> dict[str, catalog_pb2.StreamInfo]:
        async with open_channel(self.decoder_address) as channel:
            answer = await CatalogServiceStub(channel).ListStreams(
                catalog_pb2.ListStreamsRequest(), timeout=10
            )
        return {stream.camera: stream for stream in answer.streams}

    async def decoded(self, count: int) -> None:
        """Wait until `count` more frames of the rig are decoded."""
        async with asyncio.timeout(PATIENCE_S), open_channel(self.decoder_address) as channel:
            call = DecodeServiceStub(channel).Subscribe(decode_pb2.SubscribeRequest(rig="rig"))
            while count:
                message: Any = await call.read()
                count -= message.WhichOneof("message") == "frame"
            call.cancel()

    async def kill(self) -> None:
        for service in self._started:
            await service.kill()


@pytest.fixture
async def services(tiny_bundle_path: Path, tmp_path: Path) -> AsyncIterator[Services]:
    services = Services(tiny_bundle_path, tmp_path / "decoded")
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
    assert await right.end() == (0, "")
    left = await services.node(pairs / "left", "--pace", "credit", "--rate-level", "2")
    await left.line("ready")
    sent = await left.line("done")
    assert await left.end() == (0, "")

    assert [held[key] for key in ("captured", "sent", "acked", "failed", "dropped")] == [
        COUNT,
        COUNT,
        COUNT,
        0,
        0,
    ]
    assert [sent[key] for key in ("captured", "sent", "acked", "failed", "dropped")] == [
        COUNT,
        COUNT,
        COUNT,
        0,
        0,
    ]
    streams = await services.streams()
    assert (streams["left"].received, streams["left"].decoded, streams["left"].failed) == (COUNT, COUNT, 0)
    assert streams["left"].dropped == 0
    assert streams["left"].received_bytes == sent["payload_bytes"]
    assert streams["left"].session_id.hex() == sent["session"]
    assert (streams["right"].received, streams["right"].received_bytes) == (COUNT, held["payload_bytes"])

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

    decoder.process.send_signal(signal.SIGTERM)
    assert await decoder.end() == (0, "")


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
        assert await node.end() == (0, "")
        stream = (await services.streams())[done["camera"]]
        assert done["captured"] == 60 == done["sent"] + done["dropped"]
        assert done["sent"] == done["acked"] == stream.received
        assert done["failed"] == stream.failed == 0
    assert stream.decoded == done["sent"]
    # Frames dropped after the last one that was sent are known to the node alone.
    assert stream.dropped <= done["dropped"]


async def test_a_decoder_that_is_told_to_stop_ends_its_nodes_with_one_line(
    services: Services, pairs: Path
) -> None:
    decoder = await services.decoder()
    node = await services.node(pairs / "left", "--loop", "--pace", "credit", "--side-information", "none")
    await node.line("ready")
    await services.decoded(5)
    decoder.process.send_signal(signal.SIGTERM)
    done = await node.line("done")
    code, err = await node.end()
    assert code == 1
    assert err == (
        f"error: the decoder at {services.decoder_address} shut down; every frame it took is acknowledged; "
        f"start this node again when it is back\n"
    )
    assert done["captured"] == done["sent"] + done["dropped"]
    assert done["sent"] == done["acked"]
    assert await decoder.end() == (0, "")
    assert len(list((pairs / "decoded").rglob("*.png"))) == done["sent"]


async def test_a_decoder_that_is_killed_ends_its_nodes_with_one_line(services: Services, pairs: Path) -> None:
    decoder = await services.decoder()
    node = await services.node(pairs / "left", "--loop", "--pace", "credit", "--side-information", "none")
    await node.line("ready")
    await decoder.kill()
    done = await node.line("done")
    code, err = await node.end()
    assert code == 1
    assert err.startswith(f"error: the decoder at {services.decoder_address} is gone; ")
    assert err.count("\n") == 1
    assert done["captured"] == done["sent"] + done["dropped"]


async def test_a_node_whose_camera_another_one_takes_over_ends_with_the_reason(
    services: Services, pairs: Path
) -> None:
    await services.decoder()
    first = await services.node(pairs / "left", "--loop")
    await first.line("ready")
    second = await services.node(pairs / "left", "--loop")
    await second.line("ready")
    await first.line("done")
    code, err = await first.end()
    assert code == 1
    assert err.startswith(f"error: the decoder at {services.decoder_address} ended the session: ")
    assert err.endswith(" (SESSION_SUPERSEDED)\n")
    assert err.count("\n") == 1
    second.process.send_signal(signal.SIGTERM)
    done = await second.line("done")
    assert await second.end() == (0, "")
    assert done["sent"] == done["acked"]


async def test_a_bundle_that_the_decoder_does_not_serve_is_one_clear_line(
    services: Services, pairs: Path, tiny_parts: dict[str, Any], tmp_path: Path
) -> None:
    await services.decoder()
    other = write_bundle(tmp_path / "other", **{**tiny_parts, "rate_levels": (3,)})
    node = await services.node(pairs / "left", "--bundle", str(other.path))
    code, err = await node.end()
    assert code == 1
    assert other.bitstream_id.hex() in err
    assert err.endswith(" (BITSTREAM_UNKNOWN)\n")
    assert err.count("\n") == 1
