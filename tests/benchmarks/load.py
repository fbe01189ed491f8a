"""How many cameras a decoder holds: `python -m tests.benchmarks.load`.

null: a decoder whose networks do next to nothing, 32 cameras at 10 frames/s. real: the default bundle at 256x128
with side information, from 8 cameras at 5 frames/s on until more cameras bring no more frames, and twice as many.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ndsc.codec.bundle import Bundle, default_bundle_path
from tests.benchmarks import content
from tests.benchmarks.measured import Load, measure
from tests.benchmarks.report import arguments, at_least, spreads, write_report

CAMERAS: Final = (8, 10, 12, 14, 16, 20, 24, 28, 32)
FPS: Final = 5.0
KEPT_UP: Final = 0.98
"""Share of the offered frames that a decoder decodes when it is not saturated."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = arguments("load", __doc__)
    parser.add_argument("--seconds", type=at_least(1), default=20.0, help="of each run")
    parser.add_argument("--only", choices=("null", "real"), help="one of the two")
    chosen = parser.parse_args(argv)
    figures: dict[str, Any] = {"seconds": chosen.seconds, "runs": chosen.runs}
    with tempfile.TemporaryDirectory() as folder:
        if chosen.only != "real":
            figures["null"] = _runs(null_load(Path(folder), chosen.seconds), chosen.runs, Path(folder))
        if chosen.only != "null":
            figures["real"] = _until_saturated(chosen.seconds, chosen.runs, Path(folder))
    write_report(chosen.output, figures)


def null_load(folder: Path, seconds: float, cameras: int = 32, fps: float = 10.0) -> Load:
    """Small frames, no side information, nothing to compute."""
    bundle = content.null_bundle(folder)
    payloads = content.compress(bundle, content.noise(64, 32))
    return Load(bundle.path, payloads, (), cameras, fps, seconds)


def real_load(seconds: float, cameras: int, fps: float = FPS) -> Load:
    """The default bundle at 256x128 with one stream of side information for all."""
    path = default_bundle_path()
    payloads = content.compress(Bundle.load(path), content.drive("left"))
    images = content.as_side_information(content.drive("right"))
    return Load(path, payloads, images, cameras, fps, seconds)


def _until_saturated(seconds: float, runs: int, folder: Path) -> list[dict[str, Any]]:
    """One entry for each number of cameras; the last is twice what is decoded at most."""
    load = real_load(seconds, CAMERAS[0])
    results = []
    for cameras in CAMERAS:
        results.append(_runs(dataclasses.replace(load, cameras=cameras), runs, folder))
        decoded, offered = (results[-1][name]["median"] for name in ("decoded_fps", "offered_fps"))
        if decoded < KEPT_UP * offered:
            break
    twice = round(2 * max(result["decoded_fps"]["median"] for result in results) / FPS)
    return [*results, _runs(dataclasses.replace(load, cameras=twice), runs, folder)]


def _runs(load: Load, runs: int, folder: Path) -> dict[str, Any]:
    measured = []
    for run in range(runs):
        measured.append(asyncio.run(measure(load, folder)))
        shown = {name: round(figure, 1) for name, figure in measured[-1].items()}
        print(f"{load.cameras} cameras x {load.fps:g} frames/s, run {run + 1}: {shown}", flush=True)
    return {"cameras": load.cameras, "fps": load.fps, **spreads(measured)}


if __name__ == "__main__":
    main(sys.argv[1:])
