"""The age of frames when a decoder is three times too slow for them: `python -m tests.benchmarks.freshness`.

First a node plays as fast as the decoder takes frames: that is what the decoder sustains. Then one plays three
times as many frames a second by the clock, LIVE. The same with credit for 1024 frames shows what would be without:
HTTP/2 holds no frame back at these sizes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ndsc.codec.bundle import default_bundle_path
from ndsc.demo.processes import running
from tests.benchmarks import content
from tests.benchmarks.report import arguments, at_least, percentile, spread, write_report
from tests.robustness.checkers import decodings
from tests.robustness.history import History, read_histories

OVERLOAD: Final = 3.0
CREDITS: Final = (4, 1024)
"""The default, and as good as none."""
WIDTH, HEIGHT = 512, 256
"""Large enough that capturing three times too many frames takes little of the machine."""
START_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class Run:
    """Frames of one run: when each was decoded, in seconds since the first was captured, and how old it was."""

    decoded_s: list[float]
    ages_ms: list[float]
    seconds: float
    """For how long frames were captured."""
    node: dict[str, Any]
    """What the node said at its end."""

    def figures(self) -> dict[str, float]:
        """Ages, and how fast they grow, while frames are captured and after the first two seconds."""
        decoded = zip(self.decoded_s, self.ages_ms, strict=True)
        times, ages = zip(*(one for one in decoded if 2 < one[0] < self.seconds), strict=True)
        third = len(ages) // 3
        return {
            "age_median_ms": percentile(ages, 0.5),
            "age_max_ms": max(ages),
            "age_slope_ms_per_s": float(np.polyfit(times, ages, 1)[0]),
            "age_first_third_ms": fmean(ages[:third]),
            "age_last_third_ms": fmean(ages[-third:]),
            "captured": self.node["captured"],
            "decoded": len(self.ages_ms),
            "dropped": self.node["dropped"],
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, plot, report."""
    parser = arguments("freshness", __doc__)
    parser.add_argument("--seconds", type=at_least(4), default=30.0, help="of each run")
    parser.add_argument("--plot", type=Path, default=Path("docs/freshness.png"), help="picture to write")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = content.write_folder(folder / "pictures", content.drive("left", WIDTH, HEIGHT))
        sustained = sustained_fps(pictures, folder / "sustained")
        fps = round(OVERLOAD * sustained, 1)
        print(f"the decoder sustains {sustained:.1f} frames/s; it is given {fps:g}", flush=True)
        runs = {
            credit: [
                overload(pictures, folder / f"{credit}-{run}", credit, fps, chosen.seconds)
                for run in range(chosen.runs)
            ]
            for credit in CREDITS
        }
    plot({credit: of_credit[0] for credit, of_credit in runs.items()}, chosen.plot)
    write_report(
        chosen.output,
        {
            "sustained_fps": round(sustained, 2),
            "offered_fps": fps,
            "seconds": chosen.seconds,
            "runs": chosen.runs,
            "credit": {str(credit): _spreads(of_credit) for credit, of_credit in runs.items()},
        },
    )


def sustained_fps(pictures: Path, folder: Path, frames: int = 60) -> float:
    """Frames a second that one node gets decoded when it waits for credit."""
    flags = ["--pace", "credit", "--limit", str(frames)]
    times_s = [decoded.m_us / 1e6 for _, decoded in _play(pictures, folder, CREDITS[0], flags)[0]]
    seconds: float = times_s[-1] - times_s[0]
    return (len(times_s) - 1) / seconds


def overload(pictures: Path, folder: Path, credit: int, fps: float, seconds: float) -> Run:
    """Frames by the clock, more than the decoder sustains."""
    frames = round(fps * seconds)
    flags = ["--fps", repr(fps), "--limit", str(frames)]
    pairs, history, node = _play(pictures, folder, credit, flags)
    captured_us = {event["capture_time_us"]: event.m_us for event in history.of("node", "captured")}
    start_us = min(captured_us.values())
    decoded_s, ages_ms = [], []
    for coded, decoded in pairs:
        decoded_s.append((decoded.m_us - start_us) / 1e6)
        ages_ms.append((decoded.m_us - captured_us[coded["capture_time_us"]]) / 1e3)
    return Run(decoded_s, ages_ms, seconds, node)


def _play(
    pictures: Path, folder: Path, credit: int, flags: Sequence[str]
) -> tuple[list[tuple[Any, Any]], History, dict[str, Any]]:
    """One node and one decoder → ((coded, decoded) of every decoded frame, history, the node's account)."""
    folder.mkdir()
    bundle = ["--bundle", str(default_bundle_path()), "--listen", "127.0.0.1:0"]
    record = {side: folder / f"{side}.jsonl" for side in ("node", "decoder")}
    serve = [*bundle, "--credit-frames", str(credit), "--threads", "1", "--history", str(record["decoder"])]
    with running("decoder_service", serve) as decoder:
        port = decoder.wait_for("ready", START_TIMEOUT_S)["port"]
        node_flags = [
            *("--decoder", f"127.0.0.1:{port}", "--side-information", "none", "--threads", "1"),
            *("--source", str(pictures), "--loop", "--drain-seconds", "600"),
            *("--history", str(record["node"])),
        ]
        with running("encoder_service", [*bundle, *node_flags, *flags]) as node:
            node.wait_for("ready", START_TIMEOUT_S)
            account = node.wait_for("done", 600)
    history = read_histories(sorted(record.values()))
    return decodings(history, "left"), history, account


def plot(runs: dict[int, Run], path: Path) -> None:
    """Write the ages over time as a PNG."""
    # Black and orange differ in lightness too.
    styles = {CREDITS[0]: ("black", "."), CREDITS[1]: ("#d55e00", "x")}
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for credit, run in runs.items():
            colour, marker = styles[credit]
            axes.plot(
                run.decoded_s,
                [age / 1000 for age in run.ages_ms],
                marker,
                color=colour,
                markersize=4,
                label=f"credit for {credit} frames",
            )
        axes.set(
            title="A live camera sends three times what the decoder sustains",
            xlabel="time since the first frame, s",
            ylabel="age of a frame when it is decoded, s",
            xlim=(0, None),
            ylim=(0, None),
        )
        axes.grid(alpha=0.3)
        axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    print(f"wrote {path}")


def _spreads(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    figures = [run.figures() for run in runs]
    return {name: spread(one[name] for one in figures) for name in figures[0]}


if __name__ == "__main__":
    main(sys.argv[1:])
