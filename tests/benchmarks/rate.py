"""How a node holds a rate: `python -m tests.benchmarks.rate`.

target: a node at 10 frames/s is told one target after another. link: another follows a link whose rate changes.
Both send to a real decoder, through a proxy that makes the link. Rates are bytes of Frame messages.
"""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc.aio
import matplotlib as mpl
from matplotlib.figure import Figure

from ndsc.codec.bundle import default_bundle_path
from ndsc.v1.node_pb2 import Rate, SetRateRequest
from ndsc.v1.node_pb2_grpc import NodeServiceStub
from tests.benchmarks import content
from tests.benchmarks.report import arguments, at_least, percentile, spreads, write_report
from tests.robustness.checkers import decodings
from tests.robustness.history import read_histories
from tests.robustness.processes import Service
from tests.robustness.proxy import Proxy, proxying

FPS: Final = 10.0
TARGETS_KBPS: Final = (40.0, 70.0, 28.0, 8.0, 60.0)
"""The default bundle's levels take about 12 to 127 kbit/s: for 8, frames are left out."""
LINKS_KBPS: Final = (80.0, 40.0, 80.0)
"""What TCP carries, HTTP/2 and all."""
SETTLING_S: Final = 2.0
WINDOW_S: Final = 10.0
START_TIMEOUT_S: Final = 60.0
LEAD_S: Final = 4


@dataclass(frozen=True)
class Sent:
    """A frame that was sent and decoded."""

    coded_s: float
    """Since the first frame was captured."""
    message_bytes: float
    decoded_s: float
    age_ms: float
    """When it was decoded."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both, plot, report."""
    parser = arguments("rate", __doc__)
    parser.add_argument(
        "--seconds", type=at_least(1 + SETTLING_S), default=20.0, help="from one change to the next"
    )
    parser.add_argument("--plot", type=Path, default=Path("docs/rate.png"), help="picture to write")
    chosen = parser.parse_args(argv)
    targets: list[dict[str, float]] = []
    links: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = content.write_folder(folder / "pictures", content.drive("left", pictures=40))
        for run in range(chosen.runs):
            held = asyncio.run(hold(pictures, new(folder / f"target-{run}"), TARGETS_KBPS, chosen.seconds))
            followed = asyncio.run(follow(pictures, new(folder / f"link-{run}"), LINKS_KBPS, chosen.seconds))
            targets.append(deviations(held, TARGETS_KBPS, chosen.seconds))
            links.append(usage(followed, LINKS_KBPS, chosen.seconds))
            print(f"run {run + 1}: {targets[-1]} {links[-1]}", flush=True)
            if run == 0:
                plot(held, followed, chosen.seconds, chosen.plot)
    write_report(
        chosen.output,
        {
            "seconds": chosen.seconds,
            "runs": chosen.runs,
            "targets_kbps": TARGETS_KBPS,
            "links_kbps": LINKS_KBPS,
            "target": spreads(targets),
            "link": spreads(links),
        },
    )


def new(folder: Path) -> Path:
    """The folder, made."""
    folder.mkdir()
    return folder


async def hold(pictures: Path, folder: Path, targets_kbps: Sequence[float], seconds: float) -> list[Sent]:
    """Tell a node one target after another."""

    async def change(kbps: float, _: Proxy, node: Any) -> None:
        await node.SetRate(SetRateRequest(rate=Rate(target_kbps=kbps)))

    return await _stream(
        pictures, folder, ["--target-kbps", repr(targets_kbps[0])], targets_kbps, seconds, change
    )


async def follow(pictures: Path, folder: Path, links_kbps: Sequence[float], seconds: float) -> list[Sent]:
    """Let a node follow a link that changes."""

    async def change(kbps: float, link: Proxy, _: Any) -> None:
        link.kbps = kbps

    return await _stream(pictures, folder, ["--follow-link"], links_kbps, seconds, change)


async def _stream(
    pictures: Path, folder: Path, rate: Sequence[str], steps: Sequence[float], seconds: float, change: Any
) -> list[Sent]:
    bundle = ["--bundle", str(default_bundle_path()), "--listen", "127.0.0.1:0"]
    records = {side: folder / f"{side}.jsonl" for side in ("node", "decoder")}
    serve = [*bundle, "--history", str(records["decoder"])]
    decoder = Service("decoder_service", serve, folder / "decoder.log")
    await decoder.start()
    try:
        async with proxying((await decoder.wait_for("ready", START_TIMEOUT_S))["port"]) as link:
            epoch_s = math.ceil(time.time()) + LEAD_S
            flags = [
                *("--decoder", f"127.0.0.1:{link.port}", "--side-information", "none"),
                *("--source", str(pictures), "--loop", "--fps", repr(FPS), "--epoch", str(epoch_s)),
                *("--limit", str(round(FPS * seconds * len(steps)))),
                *("--history", str(records["node"]), *rate),
            ]
            node = Service("encoder_service", [*bundle, *flags], folder / "node.log")
            await node.start()
            try:
                port = (await node.wait_for("ready", START_TIMEOUT_S))["port"]
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    for number, step in enumerate(steps):
                        await asyncio.sleep(epoch_s + number * seconds - time.time())
                        await change(step, link, NodeServiceStub(channel))
                account = await node.wait_for("done", seconds + START_TIMEOUT_S)
            finally:
                await node.stop()
    finally:
        await decoder.stop()
    return _sent(records, (account["frame_bytes"] - account["payload_bytes"]) / account["sent"])


def _sent(records: dict[str, Path], overhead_bytes: float) -> list[Sent]:
    history = read_histories(sorted(records.values()))
    start_us = history.of("node", "captured")[0].m_us
    coded = {event.key: event for event in history.of("node", "coded")}
    return [
        Sent(
            (coded[decoded.key].m_us - start_us) / 1e6,
            coded[decoded.key]["bytes"] + overhead_bytes,
            (decoded.m_us - start_us) / 1e6,
            (decoded.m_us - captured.m_us) / 1e3,
        )
        for captured, decoded in decodings(history, "left")
    ]


def deviations(sent: Sequence[Sent], targets_kbps: Sequence[float], seconds: float) -> dict[str, float]:
    """For each target: the most that any 10 s, from 2 s after the change on, miss it by, in percent of it."""
    figures = {}
    for number, kbps in enumerate(targets_kbps):
        first_s, end_s = number * seconds + SETTLING_S, (number + 1) * seconds
        window_s = min(WINDOW_S, end_s - first_s)
        worst = 0.0
        for tenth in range(round(10 * (end_s - first_s - window_s)) + 1):
            # Half a frame early: a frame's time jitters, and must not fall in or out of the window for that.
            start_s = first_s + tenth / 10 - 0.5 / FPS
            bits = 8 * sum(f.message_bytes for f in sent if start_s <= f.coded_s < start_s + window_s)
            worst = max(worst, abs(bits / 1000 / window_s / kbps - 1))
        figures[f"{number + 1}: {kbps:g} kbit/s, worst deviation %"] = 100 * worst
    return figures


def usage(sent: Sequence[Sent], links_kbps: Sequence[float], seconds: float) -> dict[str, float]:
    """For each link, from 2 s after the change on: percent of it that Frame messages took, and ages.

    Raises ValueError when no frame came through one of them.
    """
    figures = {}
    for number, kbps in enumerate(links_kbps):
        first_s, end_s = number * seconds + SETTLING_S, (number + 1) * seconds
        frames = [frame for frame in sent if first_s <= frame.decoded_s < end_s]
        name = f"{number + 1}: {kbps:g} kbit/s"
        bits = 8 * sum(frame.message_bytes for frame in frames)
        figures[f"{name}, used %"] = 100 * bits / 1000 / (end_s - first_s) / kbps
        figures[f"{name}, frames/s"] = len(frames) / (end_s - first_s)
        figures[f"{name}, median age ms"] = percentile([frame.age_ms for frame in frames], 0.5)
        figures[f"{name}, largest age ms"] = percentile([frame.age_ms for frame in frames], 1.0)
    return figures


def plot(held: Sequence[Sent], followed: Sequence[Sent], seconds: float, path: Path) -> None:
    """Write the rates over time as a PNG."""
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(8, 6), layout="constrained")
        upper, lower = figure.subplots(2)
        for axes, sent, steps, what in (
            (upper, held, TARGETS_KBPS, "target"),
            (lower, followed, LINKS_KBPS, "link"),
        ):
            times_s, kbps = _mean_rates(sent, len(steps) * seconds)
            axes.plot(times_s, kbps, color="black", linewidth=1, label="sent, mean over 1 s")
            axes.stairs(
                steps,
                [number * seconds for number in range(len(steps) + 1)],
                color="#d55e00",
                linestyle="--",
                label=what,
            )
            axes.set(xlabel="time since the first frame, s", ylabel="kbit/s", ylim=(0, 1.4 * max(steps)))
            axes.grid(alpha=0.3)
            axes.legend(loc="upper right", ncols=2)
        upper.set_title("A node holds a target")
        lower.set_title("A node follows a link")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    print(f"wrote {path}")


def _mean_rates(sent: Sequence[Sent], end_s: float) -> tuple[list[float], list[float]]:
    """Times, and the rate over the second before each, in kbit/s."""
    times_s = [tenth / 10 for tenth in range(10, round(10 * end_s))]
    return times_s, [
        8 * sum(f.message_bytes for f in sent if at_s - 1 <= f.coded_s < at_s) / 1000 for at_s in times_s
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
