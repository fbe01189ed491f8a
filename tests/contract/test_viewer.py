"""The viewer as a process, beside a real decoder and real nodes: events, pictures, rates, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.frames import Frame, decode_image, read_image
from ndsc.evaluate.metrics import psnr
from ndsc.v1.decode_pb2 import DecodedFrame, HeldSideInformation
from ndsc.viewer import shelf
from ndsc.viewer.server import main
from tests.contract.service_process import PATIENCE_S, Service, free_port

EPOCH_S = 1_700_000_000
FPS = 8
FLAGS = ("--epoch", EPOCH_S, "--fps", FPS, "--loop")


Condition = Callable[[dict[str, Any]], Any]


class Events:
    """What a browser is told."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.seen: list[dict[str, Any]] = []

    async def until(
        self, kind: str, condition: Callable[[dict[str, Any]], Any] = lambda _: True
    ) -> dict[str, Any]:
        """The next event of a kind of which the condition holds."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = await self._response.content.readline()
                if not line.startswith(b"data: "):
                    continue
                event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                self.seen.append(event)
                if event["type"] == kind and condition(event):
                    return event


@dataclass
class Rig:
    """A running rig and its viewer."""

    viewer: str
    http: aiohttp.ClientSession
    decoder: Service
    camera: Service
    pictures: list[Frame]
    """Of either camera."""

    browsers: list[aiohttp.ClientResponse] = field(default_factory=list)

    async def events(self) -> Events:
        self.browsers.append(await self.http.get(f"{self.viewer}/api/events"))
        return Events(self.browsers[-1])

    async def picture(self, frame: dict[str, Any], kind: str) -> Frame:
        async with self.http.get(
            f"{self.viewer}/api/frames/{frame['camera']}/{frame['number']}/{kind}"
        ) as got:
            assert got.status == 200, await got.text()
            assert got.content_type in ("image/png", "image/jpeg")
            return decode_image(await got.read())

    def number(self, frame: dict[str, Any]) -> int:
        """Which of the ten pictures it is."""
        position: int = round((frame["capture_time_ms"] / 1000 - EPOCH_S) * FPS)
        return position % len(self.pictures)


@pytest.fixture
async def rig(folder: Path, tiny_bundle_path: Path, tmp_path: Path) -> AsyncIterator[Rig]:
    bundle = ("--bundle", tiny_bundle_path, "--threads", 1)
    decoder = await Service.start("decoder_service", *bundle)
    services = [decoder]
    try:
        address = ("--decoder", f"127.0.0.1:{(await decoder.line('ready'))['port']}")
        side = await Service.start(
            *(
                "encoder_service",
                *address,
                "--source",
                folder,
                "--camera",
                "right",
                "--role",
                "side-information",
            ),
            *(*FLAGS, "--side-format", "png"),
        )
        services.append(side)
        camera = await Service.start(
            *("encoder_service", *bundle, *address, "--source", folder, *FLAGS),
            *("--offer-sources", 200, "--rate-level", 1),
        )
        services.append(camera)
        node = f"127.0.0.1:{(await camera.line('ready'))['port']}"
        viewer = await Service.start("ndsc.viewer", *address, "--node", node, "--host", "cameras.example")
        services.append(viewer)
        port = (await viewer.line("ready"))["port"]
        pictures = [read_image(folder / f"{number:03d}.png") for number in range(10)]
        async with aiohttp.ClientSession() as http:
            running = Rig(f"http://127.0.0.1:{port}", http, decoder, camera, pictures)
            yield running
            for browser in running.browsers:
                browser.close()
        viewer.terminate()
        assert await viewer.end() == (0, "", "")
    finally:
        for service in services:
            await service.kill()


async def test_a_frame_its_pictures_and_its_quality(rig: Rig, tiny_bundle: Bundle) -> None:
    encoder, decoder = FrameEncoder(tiny_bundle), FrameDecoder(tiny_bundle)
    events = await rig.events()
    # The first frame's side information came before the viewer did.
    first = await events.until("frame")
    frame = await events.until("frame", lambda one: one["number"] > first["number"] + 4)
    assert frame["outcome"] == "paired"
    assert (frame["camera"], frame["rate_level"], frame["stream"]) == ("left", 1, "right")
    assert (frame["width"], frame["height"]) == (40, 24)
    assert frame["payload_bpp"] == pytest.approx(8 * frame["payload_bytes"] / (40 * 24))
    number = rig.number(frame)
    compressed = encoder.encode(rig.pictures[number], 1)
    y = rig.pictures[round(number + frame["offset_ms"] / 1000 * FPS) % 10]
    expected = {
        "source": rig.pictures[number],
        "side": y,
        "decoded": decoder.decode(compressed, y),
        "without": decoder.decode(compressed),
    }
    for kind, picture in expected.items():
        np.testing.assert_array_equal(await rig.picture(frame, kind), picture, err_msg=kind)
    # A browser asked for a picture without: quality is measured without, too.
    quality = await events.until("quality", lambda one: one["without_db"] is not None)
    frame = next(one for one in events.seen if one["type"] == "frame" and one["number"] == quality["number"])
    number = rig.number(frame)
    compressed = encoder.encode(rig.pictures[number], 1)
    assert quality["without_db"] == pytest.approx(
        psnr(rig.pictures[number], decoder.decode(compressed)), abs=0.001
    )
    y = rig.pictures[round(number + frame["offset_ms"] / 1000 * FPS) % 10]
    assert quality["psnr_db"] == pytest.approx(
        psnr(rig.pictures[number], decoder.decode(compressed, y)), abs=0.001
    )


async def test_the_rate_is_set_and_shown(rig: Rig) -> None:
    events = await rig.events()
    node = await events.until("nodes", lambda one: one["nodes"][0]["facts"])
    assert node["nodes"][0]["facts"]["rate"] == {"rate_level": 1}

    async def post(camera: str, body: Any, **more: Any) -> tuple[int, str]:
        async with rig.http.post(f"{rig.viewer}/api/cameras/{camera}/rate", json=body, **more) as answer:
            return answer.status, await answer.text()

    assert await post("left", {"rate_level": 0}) == (200, "{}")
    await events.until("frame", lambda one: one["rate_level"] == 0)
    await events.until("nodes", lambda one: one["nodes"][0]["facts"]["rate"] == {"rate_level": 0})
    assert await post("left", {"target_kbps": 90.5}) == (200, "{}")
    assert await post("left", {"follow_link": True}) == (200, "{}")
    assert await post("left", {"rate_level": 7}) == (400, "no rate level 7; this bundle has 0 to 2")
    assert (await post("middle", {"rate_level": 0}))[0] == 404
    two = {"rate_level": 0, "target_kbps": 1}
    wrongs: list[Any] = [{}, [], {"rate_level": True}, {"rate_level": -1}, {"kbps": 3}, two]
    for wrong in wrongs:
        assert await post("left", wrong) == (400, "give one of rate_level, target_kbps and follow_link")
    async with rig.http.post(f"{rig.viewer}/api/cameras/left/rate", data=b'{"rate_level": 0}') as answer:
        assert answer.status == 415  # what a page of another origin could send


async def test_streams_are_listed_and_a_decoder_that_goes_is_told(rig: Rig) -> None:
    events = await rig.events()
    listed = await events.until("streams", lambda one: len(one["streams"]) == 2)
    assert {(one["kind"], one["name"], one["open"]) for one in listed["streams"]} == {
        ("camera", "left", True),
        ("side information", "right", True),
    }
    await rig.decoder.kill()
    gone = await events.until("decoder", lambda one: not one["connected"])
    assert gone["error"]


async def test_the_page_and_what_is_not_there(rig: Rig) -> None:
    async with rig.http.get(rig.viewer) as page:
        text = await page.text()
        assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert '<script type="module" src="/app.js">' in text
    for path, kind in (("/app.js", "text/javascript"), ("/style.css", "text/css")):
        async with rig.http.get(rig.viewer + path) as file:
            assert (file.status, file.content_type) == (200, kind)
    for path in (
        "/api/frames/left/999999/decoded",
        "/api/frames/left/1/other",
        "/api/frames/x/1/decoded",
        "/x",
    ):
        async with rig.http.get(rig.viewer + path) as missing:
            assert missing.status == 404, path
            assert missing.headers["X-Content-Type-Options"] == "nosniff"
    for name, status in (
        ("evil.example", 403),
        ("localhost", 200),
        ("[::1]:9", 200),
        ("cameras.example", 200),
    ):
        async with rig.http.get(rig.viewer, headers={"Host": name}) as named:
            assert named.status == status, name


async def test_a_source_that_no_node_offers_and_an_address_in_use(
    folder: Path, tiny_bundle_path: Path
) -> None:
    bundle = ("--bundle", tiny_bundle_path, "--threads", 1)
    decoder = await Service.start("decoder_service", *bundle)
    services = [decoder]
    try:
        address = ("--decoder", f"127.0.0.1:{(await decoder.line('ready'))['port']}")
        camera = await Service.start("encoder_service", *bundle, *address, "--source", folder, *FLAGS)
        services.append(camera)
        node = f"127.0.0.1:{(await camera.line('ready'))['port']}"
        viewer = await Service.start("ndsc.viewer", *address, "--node", node)
        services.append(viewer)
        port = (await viewer.line("ready"))["port"]
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/api/events") as browser:
                frame = await Events(browser).until("frame")
            for kind in ("source", "side"):
                async with http.get(
                    f"http://127.0.0.1:{port}/api/frames/left/{frame['number']}/{kind}"
                ) as missing:
                    assert missing.status == 404
            assert frame["outcome"] == "absent"
        second = await Service.start("ndsc.viewer", *address, "--listen", f"127.0.0.1:{port}")
        code, _, err = await second.end()
        assert code == 1
        assert err.startswith(f"error: cannot listen at 127.0.0.1:{port}: ")
    finally:
        for service in services:
            await service.kill()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--listen", "0.0.0.0:0"], "listen: whoever reaches 0.0.0.0:0 sees the cameras"),
        (["--decoder", "nowhere"], "decoder: 'nowhere' is not an address"),
        (["--decoder-name", "a/b"], "decoder-name: 'a/b' is no name of a host"),
        (
            ["--decoder", "server:50051"],
            "decoder: server:50051 is another machine and traffic is not encrypted",
        ),
        (["--node", "left:50061"], "node: left:50061 is another machine and traffic is not encrypted"),
        (["--token-file", "token"], "token-file: a token travels only over TLS"),
        (
            ["--token-file", "token", "--tls-ca", "ca.pem", "--node", "127.0.0.1:1"],
            "node: nodes take no tokens",
        ),
        (["--node", "127.0.0.1:1", "--node", "x"], "node: 'x' is not an address"),
    ],
)
def test_wrong_settings_are_one_line(flags: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


async def test_a_node_that_does_not_answer_is_told(tiny_bundle_path: Path) -> None:
    decoder = await Service.start("decoder_service", "--bundle", tiny_bundle_path, "--threads", 1)
    services = [decoder]
    try:
        address = ("--decoder", f"127.0.0.1:{(await decoder.line('ready'))['port']}")
        viewer = await Service.start("ndsc.viewer", *address, "--node", f"127.0.0.1:{free_port()}")
        services.append(viewer)
        port = (await viewer.line("ready"))["port"]
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{port}/api/events") as browser,
        ):
            node = await Events(browser).until("nodes", lambda one: one["nodes"][0]["error"])
            assert node["nodes"][0]["error"].startswith("no service answers at 127.0.0.1:")
    finally:
        for service in services:
            await service.kill()


def test_a_missing_package_is_told() -> None:
    code = "import runpy, sys; sys.modules['aiohttp'] = None; runpy.run_module('ndsc.viewer', run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "error: aiohttp is not installed; pip install 'ndsc[viewer]'\n"


def test_pictures_of_the_shelf_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "CAPACITY_BYTES", 1000)
    held = shelf.Shelf()
    for sequence in range(20):
        for camera in ("a", "b"):
            frame = DecodedFrame(camera=camera, sequence=sequence)
            frame.image.data = bytes(100)
            held.put(frame)
        side = HeldSideInformation(stream="right")
        side.capture_time.seconds = sequence
        side.image.data = bytes(100)
        held.put_side(side)
        assert held._held_bytes() <= 1000
    newest = list(held.newest())
    assert [(frame.message.camera, frame.message.sequence) for frame in newest] == [("a", 19), ("b", 19)]
    assert held.get("a", newest[0].number) is newest[0]
    assert held.get("a", newest[0].number - 30) is None
