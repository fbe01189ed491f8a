"""A node and a decoder as processes show their metrics: everything documented is there, and the two agree."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from decoder_service.metrics import READINGS as DECODER_READINGS
from encoder_service.metrics import READINGS as NODE_READINGS
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.frames import Frame, write_image

FRAMES = 5
PATIENCE_S = 30


def free_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def scrape(address: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Name of a sample → its labels → its value."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    shown: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            shown.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return shown


@asynccontextmanager
async def process(module: str, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--listen", "127.0.0.1:0", "--log-level", "error", *flags),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def ready(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        line = (await process.stdout.readline()).decode()
    facts: dict[str, Any] = json.loads(line.removeprefix("ready "))
    return facts


@pytest.fixture
def source(tmp_path: Path, noise_frame: Frame) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(FRAMES):
        write_image(folder / f"{number}.png", noise_frame)
    return folder


async def test_both_ends_show_what_they_do(
    tiny_bundle: Bundle, noise_frame: Frame, source: Path, tmp_path: Path
) -> None:
    bundle = ("--bundle", str(tiny_bundle.path))
    decoder_metrics, node_metrics = free_address(), free_address()
    archive = ("--archive", str(tmp_path / "archive"), "--metrics-listen", decoder_metrics)
    spool = ("--delivery", "archive", "--spool", str(tmp_path / "spool"), "--metrics-listen", node_metrics)
    async with process("decoder_service", *bundle, *archive) as decoder:
        address = f"127.0.0.1:{(await ready(decoder))['port']}"
        at_rest = await asyncio.to_thread(scrape, decoder_metrics)
        looped = ("--loop", "--fps", "20", "--source", str(source), "--side-information", "none")
        async with process("encoder_service", *bundle, *spool, *looped, "--decoder", address) as node:
            await ready(node)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    shown = await asyncio.to_thread(scrape, node_metrics)
                    if shown["ndsc_node_frames_total"][(("outcome", "acknowledged"),)] >= FRAMES:
                        break
            during = await asyncio.to_thread(scrape, decoder_metrics)
            node.terminate()
            async with asyncio.timeout(PATIENCE_S):
                await node.wait()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                after = await asyncio.to_thread(scrape, decoder_metrics)
                camera = {
                    dict(labels)["outcome"]: count
                    for labels, count in after["ndsc_decoder_frames_total"].items()
                }
                if camera["decoded"] == camera["stored"]:
                    break
    assert {f"ndsc_decoder_{name}" for name in DECODER_READINGS} <= set(at_rest)
    # The node has no certificate; everything else it can read is there.
    assert {f"ndsc_node_{name}" for name in NODE_READINGS} - set(shown) == {
        "ndsc_node_certificate_expiry_timestamp_seconds"
    }
    assert at_rest["ndsc_decoder_serving"][()] == 1
    assert at_rest["ndsc_decoder_open_cameras"][()] == 0
    assert during["ndsc_decoder_open_cameras"][()] == 1
    assert after["ndsc_decoder_open_cameras"][()] == 0
    assert after["ndsc_decoder_archive_bytes"][()] > 0
    assert shown["ndsc_node_connected"][()] == 1
    assert camera["received"] == camera["stored"] == camera["decoded"] >= FRAMES
    size = len(FrameEncoder(tiny_bundle).encode(noise_frame).payload)
    assert sum(after["ndsc_decoder_payload_bytes_total"].values()) == camera["received"] * size
    runs = after["ndsc_decoder_batch_frames_sum"][()]
    assert runs == after["ndsc_decoder_frame_age_seconds_count"][()] == camera["decoded"]
    assert shown["ndsc_node_sent_bytes_total"][()] % size == 0
