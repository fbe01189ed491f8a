"""One measurement: a decoder process, streams into it, and what all of them say."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

import psutil
from prometheus_client.parser import text_string_to_metric_families

from ndsc.codec.bitstream import CompressedFrame
from ndsc.service.channel import open_channel
from ndsc.v1.catalog_pb2 import ListStreamsRequest, StreamInfo
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub
from ndsc.v1.types_pb2 import Image
from tests.benchmarks.cameras import RIG, CameraStream, SideStream, Timetable, Traffic
from tests.benchmarks.report import percentile
from tests.robustness.processes import Service
from tests.robustness.rig import free_port

START_TIMEOUT_S: Final = 60.0
LEAD_S: Final = 1.5
"""From now to the first frame, for the sessions to open."""


SETTLED: Final = 0.25
"""Share of the time before the rate of decoding is taken: as many frames are on the way then as at its end."""


class AccountError(Exception):
    """Node and decoder do not agree on what became of the frames, or the decoder did not answer."""


@dataclass(frozen=True)
class Load:
    """What is streamed into a decoder."""

    bundle: Path
    payloads: Sequence[CompressedFrame]
    """What every camera sends, again and again."""
    images: Sequence[Image]
    """Side information, likewise; empty: none."""
    cameras: int
    fps: float
    seconds: float


async def measure(load: Load, folder: Path) -> dict[str, float]:
    """Start a decoder, stream, stop it → figures. Raises ProcessError, AccountError, AioRpcError."""
    metrics_port = free_port()
    flags = [
        *("--listen", "127.0.0.1:0", "--bundle", str(load.bundle)),
        *("--metrics-listen", f"127.0.0.1:{metrics_port}", "--max-sessions", str(max(32, load.cameras))),
    ]
    decoder = Service("decoder_service", flags, folder / "decoder.log")
    await decoder.start()
    try:
        port = (await decoder.wait_for("ready", START_TIMEOUT_S))["port"]
        return await _stream(load, f"127.0.0.1:{port}", decoder.pid, metrics_port)
    finally:
        await decoder.stop()


async def _stream(load: Load, address: str, pid: int, metrics_port: int) -> dict[str, float]:
    epoch_us = round((time.time() + LEAD_S) * 1_000_000)
    timetable = Timetable(epoch_us, load.fps, round(load.fps * load.seconds))
    streams: list[CameraStream | SideStream] = [
        CameraStream(address, f"camera-{n}", timetable, load.payloads, side_information=bool(load.images))
        for n in range(load.cameras)
    ]
    if load.images:
        streams.append(SideStream(address, timetable, load.images))
    probe = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.health", address, str(LEAD_S + load.seconds)),
        stdout=asyncio.subprocess.PIPE,
    )
    server, generator = psutil.Process(pid), psutil.Process()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(stream.run()) for stream in streams]
        await timetable.wait_for(0)
        before = _cpu_s(server), _cpu_s(generator), time.monotonic()
        await timetable.wait_for(timetable.frames)
        elapsed_s = time.monotonic() - before[2]
        server_cpu_s, generator_cpu_s = _cpu_s(server) - before[0], _cpu_s(generator) - before[1]
    health, _ = await probe.communicate()
    if probe.returncode:
        raise AccountError(f"the health checks ended with status {probe.returncode}")
    await _check_accounts(address, {s.name: task.result() for s, task in zip(streams, running, strict=True)})
    traffic = [task.result() for stream, task in zip(streams, running, strict=True) if stream.name != "y"]
    ages_ms = [age for one in traffic for age in one.ages_ms]
    health_ms = json.loads(health)
    if failed := sum(one.failed for one in traffic):
        raise AccountError(f"{failed} frames could not be decoded")
    end_us = epoch_us + round(1e6 * load.seconds)
    from_us = epoch_us + round(1e6 * load.seconds * SETTLED)
    in_time = sum(from_us <= at_us < end_us for one in traffic for at_us in one.acked_us)
    paired, batch = await asyncio.to_thread(_scrape, metrics_port)
    return {
        "offered_fps": load.cameras * load.fps,
        "decoded_fps": in_time * 1e6 / (end_us - from_us),
        "sent": sum(one.sent for one in traffic),
        "decoded": sum(one.acked for one in traffic),
        "dropped": sum(one.dropped for one in traffic),
        "age_p50_ms": percentile(ages_ms, 0.5),
        "age_p99_ms": percentile(ages_ms, 0.99),
        "age_max_ms": max(ages_ms),
        "age_first_third_ms": fmean(age for one in traffic for age in one.ages_ms[: len(one.ages_ms) // 3]),
        "age_last_third_ms": fmean(age for one in traffic for age in one.ages_ms[-len(one.ages_ms) // 3 :]),
        "health_p50_ms": percentile(health_ms, 0.5),
        "health_p99_ms": percentile(health_ms, 0.99),
        "health_max_ms": max(health_ms),
        "decoder_cpu_percent": 100 * server_cpu_s / elapsed_s,
        "generator_cpu_percent": 100 * generator_cpu_s / elapsed_s,
        "decoder_memory_mbytes": server.memory_info().rss / 2**20,
        "batch_mean_frames": batch,
        "paired_percent": 100 * paired,
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _check_accounts(address: str, sent: dict[str, Traffic]) -> None:
    async with open_channel(address) as channel:
        answer = await CatalogServiceStub(channel).ListStreams(ListStreamsRequest(rig=RIG))
    if sorted(stream.camera for stream in answer.streams) != sorted(sent):
        raise AccountError(
            f"the decoder has {[stream.camera for stream in answer.streams]}, not {sorted(sent)}"
        )
    for stream in answer.streams:
        _check_account(stream, sent[stream.camera])


def _check_account(stream: StreamInfo, traffic: Traffic) -> None:
    """Every frame has one fate, and both ends say the same. Raises AccountError."""
    settled = stream.decoded + stream.failed + stream.abandoned + stream.waiting
    # Frames given up after the last one that was sent are in no message.
    node = (traffic.sent, traffic.sent, traffic.acked, traffic.failed, traffic.reported_drops)
    decoder = (stream.received, settled, settled, stream.failed, stream.dropped)
    if node != decoder:
        raise AccountError(
            f"{stream.camera}: sent, settled, acknowledged, failed, dropped are {node} for the node and "
            f"{decoder} for the decoder"
        )


def _scrape(port: int) -> tuple[float, float]:
    """(share of frames that were paired, mean frames in a run of the network)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        families = text_string_to_metric_families(page.read().decode())
    samples = [sample for family in families for sample in family.samples]
    pairings = {s.labels["outcome"]: s.value for s in samples if s.name == "ndsc_decoder_pairings_total"}
    sums = {s.name: s.value for s in samples if s.name.startswith("ndsc_decoder_batch_frames_")}
    runs = sums.get("ndsc_decoder_batch_frames_count", 0)
    looked_for = sum(pairings.values())
    return (
        pairings.get("paired", 0) / looked_for if looked_for else 0.0,
        sums.get("ndsc_decoder_batch_frames_sum", 0) / runs if runs else 0.0,
    )
