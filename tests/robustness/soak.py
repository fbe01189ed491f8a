"""Eight cameras for half an hour: `python -m tests.robustness.soak --minutes 30 -o out/soak.json`.

Each minute one camera's link is cut for a second. Memory and file descriptors of every process must not grow, and
every frame must be accounted for. Exit status: 0 so it was, 1 not, 2 nothing could be run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from ndsc.codec.errors import NdscError
from ndsc.codec.files import write_whole
from tests.exactness import machine
from tests.robustness.bundles import make_bundles
from tests.robustness.credentials import Credentials
from tests.robustness.processes import ProcessError, be_interruptible
from tests.robustness.rig import Camera, Rig
from tests.robustness.runner import Result, check
from tests.robustness.workspace import WorkspaceError, workspace

CAMERAS: Final = tuple(
    Camera(f"{delivery}-{letter}", delivery) for delivery in ("live", "archive") for letter in "abcd"
)
FPS: Final = 5.0
START_S: Final = 20.0
AGE_BOUND_MS: Final = 3_000
"""Ten processes start at once, and much else may happen on the machine in half an hour."""
SAMPLE_S: Final = 5.0
CUT_EVERY_S: Final = 60.0
MAX_SLOPE_MIB_PER_HOUR: Final = 20.0
MAX_MORE_DESCRIPTORS: Final = 8
"""A call that is being opened again has some of its own."""


@dataclass
class Usage:
    """What one process took, sampled over the run."""

    at_s: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self, at_s: float, process: psutil.Process) -> None:
        """Look at a process. Raises psutil.NoSuchProcess."""
        with process.oneshot():
            rss_mib, descriptors = process.memory_info().rss / (1 << 20), process.num_fds()
        self.at_s.append(round(at_s, 1))
        self.rss_mib.append(round(rss_mib, 2))
        self.descriptors.append(descriptors)

    def summary(self) -> dict[str, Any]:
        """Growth over the last two thirds: what a process sets up at its start is no growth."""
        third = len(self.at_s) // 3
        slope = np.polyfit(self.at_s[third:], self.rss_mib[third:], 1)[0] * 3600
        return {
            "rss_mib": {"first": self.rss_mib[third], "last": self.rss_mib[-1], "most": max(self.rss_mib)},
            "rss_slope_mib_per_hour": round(float(slope), 2),
            "descriptors": {
                "first": self.descriptors[third],
                "last": self.descriptors[-1],
                "most": max(self.descriptors),
            },
        }


def grew(name: str, summary: dict[str, Any]) -> list[str]:
    """One line for each thing that grew."""
    lines = []
    if summary["rss_slope_mib_per_hour"] > MAX_SLOPE_MIB_PER_HOUR:
        lines.append(f"{name}: memory grew by {summary['rss_slope_mib_per_hour']} MiB an hour")
    descriptors = summary["descriptors"]
    if descriptors["last"] > descriptors["first"] + MAX_MORE_DESCRIPTORS:
        lines.append(f"{name}: descriptors grew from {descriptors['first']} to {descriptors['last']}")
    return lines


async def _sample(rig: Rig, usages: dict[str, Usage]) -> None:
    started = time.monotonic()
    processes = {name: psutil.Process(service.pid) for name, service in rig.services.items()}
    while True:
        for name, process in processes.items():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has sent its last frame
                usages.setdefault(name, Usage()).sample(time.monotonic() - started, process)
        await asyncio.sleep(SAMPLE_S)


async def _cut(rig: Rig) -> None:
    for name in cycle(sorted(rig.names)):
        await asyncio.sleep(CUT_EVERY_S)
        async with rig.fault(name):
            rig.proxies[name].cut()
            await asyncio.sleep(1)
            rig.proxies[name].mend()


async def _soak(rig: Rig) -> dict[str, Usage]:
    usages: dict[str, Usage] = {}
    async with rig.traffic():
        tasks = [asyncio.create_task(_sample(rig, usages)), asyncio.create_task(_cut(rig))]
        await rig.stream(0.99)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return usages


def main(argv: Sequence[str] | None = None) -> int:
    """Soak for as long as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/soak.json"), help="the report")
    parser.add_argument(
        "--folder", type=Path, default=Path("out/soak"), help="histories and logs; emptied first"
    )
    arguments = parser.parse_args(argv)
    be_interruptible()
    result = Result("soak", "links cut in turn")
    usages: dict[str, Usage] = {}
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with workspace(arguments.folder) as folder:
            rig = Rig(folder, make_bundles(folder / "bundles"), Credentials(folder / "certificates"), CAMERAS)
            rig.fps, rig.seconds, rig.start_s = FPS, arguments.minutes * 60, START_S
            rig.age_bound_ms = AGE_BOUND_MS
            try:
                usages = asyncio.run(_soak(rig))
            except ProcessError as error:
                result.status, result.why = "failed", str(error)
            check(rig, result)
    except (NdscError, WorkspaceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    summaries = {name: usage.summary() for name, usage in usages.items()}
    growth = [line for name, summary in summaries.items() for line in grew(name, summary)]
    passed = result.status == "kept" and not growth
    report = {
        "passed": passed,
        "minutes": arguments.minutes,
        "fps": FPS,
        "machine": machine.facts(),
        **asdict(result),
        "growth": growth,
        "processes": summaries,
        "samples": {name: asdict(usage) for name, usage in usages.items()},
    }
    write_whole(arguments.output, json.dumps(report).encode() + b"\n")
    for name, summary in summaries.items():
        print(f"{name:12} {summary}")
    for line in (*growth, *(line for verdict in result.verdicts for line in verdict.violations[:5])):
        print(line)
    print(f"{'passed' if passed else f'FAILED {result.status} {result.why}'}; {arguments.output}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
