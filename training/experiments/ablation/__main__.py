"""`python -m training.experiments.ablation`: the right, a wrong and a random side information."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from ndsc.evaluate.metrics import psnr_float
from ndsc.evaluate.protocols import kitti128
from training.data import load_pairs, render_drives
from training.datasets.kitti import read as read_kitti
from training.experiments import recipe
from training.experiments.ablation.codes import BundleCode, Code, PaperCode, bundle_codes
from training.experiments.ablation.figures import picture, plot
from training.experiments.ablation.sides import Interval, Samples, Side
from training.experiments.recipe import Row
from training.experiments.stereo.frames import both_directions, load_views
from training.experiments.stereo.point import Data, run_point
from training.experiments.stereo.settings import PRESETS, Point


def main(
    test_pairs: Annotated[
        list[Path] | None, typer.Option(help="Pairs to measure, DIR/left and DIR/right.")
    ] = None,
    kitti: Annotated[Path | None, typer.Option(help="KITTI 2012 and 2015: its test split.")] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(help="A code of the stereo experiment, RUN/FAMILY-BITSbit; again for more."),
    ] = None,
    bundle: Annotated[list[Path] | None, typer.Option(help="A bundle; again for more.")] = None,
    scene_level: Annotated[int, typer.Option(help="Rate level of the first bundle in the picture.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/ablation"),
    device: Annotated[str, typer.Option(help="cpu or cuda; bundles run on the CPU.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes one for each core.")] = 0,
    smoke: Annotated[bool, typer.Option(help="Everything in seconds, on synthetic drives.")] = False,
) -> None:
    """Decode one set of messages with several kinds of side information, and measure."""
    # Two threads that wait for each other on busy cores make a smoke run ten times as long.
    threads = threads or int(smoke)
    recipe.use_threads(threads)
    where = recipe.pick_device(device)
    bundles = bundle or [Path("models/default")]
    released = [code for directory in bundles for code in bundle_codes(directory, threads)]
    if not 0 <= scene_level < len(released):
        raise recipe.RecipeError(f"no rate level {scene_level}; there is 0 to {len(released) - 1}")
    if smoke:
        samples = synthetic_samples()
        codes: list[Code] = [_trained_in_seconds(where), released[0]]
    elif test_pairs or kitti:
        pairs = read_kitti(kitti, "test") if kitti else load_pairs(test_pairs or [])
        views = both_directions(load_views(pairs, kitti128))
        sources, sides = (tuple(view.permute(0, 2, 3, 1).numpy()) for view in views.pictures)
        samples = Samples(sources, sides)
        codes = [PaperCode(run, where) for run in model or []]
        codes += released
    else:
        raise recipe.RecipeError("no data: give --test-pairs or --kitti")
    settings = {"seed": 0, "codes": {code.name: code.identity for code in codes}}
    results = recipe.Results("ablation", settings, smoke=smoke, device=device)
    results.notes.append(
        f"{len(samples.sources) // 2} pairs, each in both directions; intervals are 95 % bootstrap over pairs"
    )
    by_pair = {
        (code.name, kind): _measure(code, samples, kind, results.rows)
        for code in track(codes, "codes", console=Console(stderr=True))
        for kind in code.kinds
    }
    _compare(results.rows, by_pair)
    if smoke:
        _check(results.rows)
    results.save(output)
    recipe.save_csv(_pair_rows(by_pair), output / "pairs.csv")
    plot(results.rows, output / "plot")
    picture(released[scene_level], synthetic_samples(), output / "scene.png")
    print(recipe.markdown_table(results.rows))


def synthetic_samples() -> Samples:
    """Two pairs of the synthetic scene."""
    drives = render_drives(2, seed=20, width=256, height=128)
    left, right = [pair.left for pair in drives], [pair.right for pair in drives]
    return Samples((*left, *right), (*right, *left))


def _measure(code: Code, samples: Samples, kind: Side, rows: list[Row]) -> NDArray[np.float64]:
    """Adds a row, and returns the PSNR of each pair."""
    decoded = code.decode(samples, kind)
    figures = [
        psnr_float(x / 255, output) for x, output in zip(samples.sources, decoded.outputs, strict=True)
    ]
    by_pair = samples.by_pair(figures)
    interval = Interval.of(by_pair)
    rows.append(
        {
            "code": code.name,
            "side_information": kind.value,
            "bpp": decoded.bpp,
            "rate": "real bytes" if isinstance(code, BundleCode) else "fixed length",
            "psnr_float_db": interval.mean,
            "low_db": interval.low,
            "high_db": interval.high,
        }
    )
    return by_pair


def _compare(rows: list[Row], by_pair: dict[tuple[str, Side], NDArray[np.float64]]) -> None:
    """What the right y gains over each other one: differences pair by pair."""
    for number, row in enumerate(rows):
        name, kind = str(row["code"]), Side(str(row["side_information"]))
        if kind is Side.RIGHT:
            continue
        gain = Interval.of(by_pair[name, Side.RIGHT] - by_pair[name, kind])
        rows[number] = dict(row) | {
            "right_gains_db": gain.mean,
            "gain_low_db": gain.low,
            "gain_high_db": gain.high,
        }


def _trained_in_seconds(device: torch.device) -> PaperCode:
    drives = render_drives(6, seed=7, width=256, height=128)
    views = both_directions(load_views(drives, lambda frame: frame)).to(device)
    with TemporaryDirectory() as folder:
        run = Path(folder) / "8x-2bit"
        run_point(
            Point("8x", 2), PRESETS["smoke"], Data(views, views, views, "smoke"), run, device, lambda *_: None
        )
        return PaperCode(run, device)


def _check(rows: Sequence[Row]) -> None:
    """What must show in seconds: a released bundle uses y, and no code is better off with noise."""
    for row in rows:
        gain_db = row.get("right_gains_db")
        if gain_db is None:
            continue
        least = 0.3 if row["rate"] == "real bytes" else 0.0
        if not isinstance(gain_db, float) or not gain_db > least:
            raise recipe.RecipeError(
                f"{row['code']}: the right y gains {gain_db} dB over {row['side_information']}"
            )


def _pair_rows(by_pair: dict[tuple[str, Side], NDArray[np.float64]]) -> list[Row]:
    return [
        {"code": name, "side_information": kind.value, "pair": number, "psnr_float_db": float(db)}
        for (name, kind), figures in by_pair.items()
        for number, db in enumerate(figures)
    ]


if __name__ == "__main__":
    recipe.run(main)
