"""`python -m training.experiments.stereo`: trains and measures the points of Figure 3."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from ndsc.evaluate.protocols import Protocol, kitti128, native
from training.config import Precision
from training.data import Pair, fingerprint, load_pairs, render_drives
from training.datasets.cityscapes import read as read_cityscapes
from training.datasets.kitti import read as read_kitti
from training.datasets.views import to_signal
from training.experiments import recipe
from training.experiments.stereo.figures import plot
from training.experiments.stereo.frames import both_directions, load_views, widest
from training.experiments.stereo.point import Data, Measured, run_point
from training.experiments.stereo.point import Progress as Report
from training.experiments.stereo.published import PUBLISHED, Published
from training.experiments.stereo.settings import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    PAPER_POINTS,
    PRESETS,
    Point,
    StereoConfig,
)
from training.ranks import Ranks
from training.run import pick_device

PIXELS = FRAME_HEIGHT * FRAME_WIDTH


def main(
    pairs: Annotated[
        list[Path] | None,
        typer.Option(help="Training pairs, DIR/left and DIR/right; with --val-pairs and --test-pairs."),
    ] = None,
    val_pairs: Annotated[
        list[Path] | None, typer.Option(help="Pairs that choose the prior's weights.")
    ] = None,
    test_pairs: Annotated[list[Path] | None, typer.Option(help="Pairs to measure.")] = None,
    kitti: Annotated[
        Path | None, typer.Option(help="KITTI 2012 and 2015: the official zips, or unpacked.")
    ] = None,
    cityscapes: Annotated[
        Path | None, typer.Option(help="Cityscapes, left and right: the official zips, or unpacked.")
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(help="FAMILY:BITS, like 8x:3; again for more. The paper's nine when left out."),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="paper, or cpu: a third of the width, half the layers, hours not days.")
    ] = "paper",
    width: Annotated[float | None, typer.Option(help="All channel counts times this.")] = None,
    layers: Annotated[int | None, typer.Option(help="Residual layers at each resolution.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of each code.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs of one step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the codes (Adam).")] = None,
    distortion_weight: Annotated[
        float | None, typer.Option(help="Weight of the MSE; the paper's is 1.")
    ] = None,
    prior_steps: Annotated[int | None, typer.Option(help="Training steps of each prior.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, batches and views.")] = None,
    published_flips: Annotated[
        bool, typer.Option(help="Mirror each frame by its own coin, as the reference does.")
    ] = False,
    published_codebook: Annotated[
        bool, typer.Option(help="Random start of the codebook, dead vectors stay dead.")
    ] = False,
    split: Annotated[
        Literal["test", "val"], typer.Option(help="What is measured: val to choose settings.")
    ] = "test",
    output: Annotated[
        Path, typer.Option(help="Folder of runs and results; finished parts there are kept.")
    ] = Path("runs/stereo"),
    precision: Annotated[Precision, typer.Option(help="What the codes are trained in.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes one for each core.")] = 0,
    smoke: Annotated[bool, typer.Option(help="Everything in seconds, on synthetic drives.")] = False,
) -> None:
    """Train the stereo codes and their priors, measure them on real bytes, and plot them beside the paper's."""
    # Two threads that wait for each other on busy cores make a smoke run ten times as long.
    threads = threads or int(smoke)
    recipe.use_threads(threads)
    ranks = Ranks.join(device)
    where = pick_device(device, ranks)
    if preset not in PRESETS:
        raise recipe.RecipeError(f"no preset {preset!r}; there is {', '.join(PRESETS)}")
    dials = {
        "width": width,
        "layers": layers,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "distortion_weight": distortion_weight,
        "prior_steps": prior_steps,
        "seed": seed,
        "published_flips": published_flips or None,
        "published_codebook": published_codebook or None,
    }
    base = PRESETS["smoke" if smoke else preset]
    config = replace(base, **{name: value for name, value in dials.items() if value is not None})  # type: ignore[arg-type]
    points = [Point.parse(text) for text in point or []] or (
        [Point("8x", 2), Point("4x", 2)] if smoke else list(PAPER_POINTS)
    )
    if smoke:
        data = _synthetic(config, where)
    elif kitti or cityscapes:
        data = _archives(kitti, cityscapes, config, where)
    elif pairs and val_pairs and test_pairs:
        data = _folders(pairs, val_pairs, test_pairs, config, where)
    else:
        raise recipe.RecipeError(
            "no data: give --kitti, --cityscapes, or --pairs, --val-pairs and --test-pairs"
        )
    if split == "val":
        data = replace(data, test=data.validation, split=split)
    results = recipe.Results(
        "stereo", config.to_dict() | {"split": split, "precision": precision}, smoke=smoke, device=device
    )
    results.notes += [
        f"{len(data.train)} training views, {len(data.validation)} validation and {len(data.test)} measured "
        "images; each pair in both directions",
        f"{ranks.count} processes; codebooks start "
        + (
            "as published"
            if config.published_codebook
            else "from k-means, and dead vectors move (not as published)"
        ),
        "published_*: the paper's figures for KITTI's 790 test images, not for those measured here",
    ]
    measured: dict[Point, Measured] = {}
    with _progress(shown=ranks.rank == 0) as report:
        for p in points:
            found = run_point(p, config, data, output / p.name, where, report, ranks, precision)
            if found:
                measured[p] = found
    ranks.leave()
    if ranks.rank > 0:
        return
    on_kitti = not (smoke or cityscapes)
    results.rows = [_row(p, measured[p], PUBLISHED.get(p) if on_kitti else None) for p in points]
    results.seconds = sum(
        m.training_seconds + m.prior_seconds + m.measuring_seconds for m in measured.values()
    )
    if smoke:
        _check(measured, data)
    results.save(output)
    _save_images(measured, output / "images.csv")
    ours = (
        "ours, the paper's networks" if config.width == 1 and config.layers is None else "ours, scaled down"
    )
    plot(results.rows, "psnr_float_db", "PSNR / dB (float output)", ours, output / "plot", published=on_kitti)
    plot(results.rows, "ms_ssim", "MS-SSIM (window 7)", ours, output / "ms_ssim", published=on_kitti)
    print(recipe.markdown_table(results.rows))


def _folders(
    train: Sequence[Path],
    validation: Sequence[Path],
    test: Sequence[Path],
    config: StereoConfig,
    device: torch.device,
) -> Data:
    pairs = [load_pairs(folders) for folders in (train, validation, test)]
    name = " ".join(fingerprint(part) for part in pairs)
    return _data(pairs, kitti128, config, device, name)


def _archives(
    kitti: Path | None, cityscapes: Path | None, config: StereoConfig, device: torch.device
) -> Data:
    if kitti and cityscapes:
        raise recipe.RecipeError("one data set at a time: give --kitti or --cityscapes")
    splits = ("train", "val", "test")
    if kitti:
        return _data([read_kitti(kitti, split) for split in splits], kitti128, config, device, "kitti")
    assert cityscapes
    parts = [read_cityscapes(cityscapes, split) for split in splits]
    return _data(parts, widest, config, device, "cityscapes")


def _synthetic(config: StereoConfig, device: torch.device) -> Data:
    drives = render_drives(10, seed=7, width=FRAME_WIDTH, height=FRAME_HEIGHT)
    parts = (drives[:6], drives[6:8], drives[8:])
    return _data(parts, native, config, device, fingerprint(drives))


def _data(
    parts: Sequence[Iterable[Pair]], protocol: Protocol, config: StereoConfig, device: torch.device, name: str
) -> Data:
    """Training, validation and test pairs as views on `device`."""
    train, validation, test = parts
    return Data(
        load_views(train, protocol, config.random_views, config.seed).to(device),
        both_directions(load_views(validation, protocol)).to(device),
        both_directions(load_views(test, protocol)).to(device),
        name,
    )


def _row(point: Point, measured: Measured, published: Published | None) -> dict[str, Any]:
    to_bpp = 1 / (len(measured.images) * PIXELS)
    return {
        "family": point.family,
        "bits": point.bits,
        "fixed_bpp": to_bpp * 8 * sum(image.fixed_bytes for image in measured.images),
        "prior_counted_bpp": to_bpp * sum(image.prior_counted_bits for image in measured.images),
        "prior_bpp": to_bpp * 8 * sum(image.prior_bytes for image in measured.images),
        "psnr_float_db": measured.mean("psnr_float"),
        "psnr_8bit_db": measured.mean("psnr_8bit"),
        "ms_ssim": measured.mean("ms_ssim"),
        "codebook_used": measured.codebook_used,
        "codec_parameters": measured.codec_parameters,
        "prior_parameters": measured.prior_parameters,
        "training_s": measured.training_seconds,
        "prior_s": measured.prior_seconds,
        "published_fixed_bpp": published.fixed_bpp if published else None,
        "published_prior_bpp": published.prior_bpp if published else None,
        "published_psnr_float_db": published.psnr_db if published else None,
        "published_ms_ssim": published.ms_ssim if published else None,
    }


def _check(measured: dict[Point, Measured], data: Data) -> None:
    """What even seconds of training must show. Raises RecipeError."""
    grey_db = fmean(-10 * math.log10(float(to_signal(x).square().mean())) for x in data.test.pictures[0])
    for point, figures in measured.items():
        gain_db = figures.mean("psnr_float") - grey_db
        if not 2 < gain_db < 20 or not 0 < figures.mean("ms_ssim") < 1:
            raise recipe.RecipeError(
                f"{point.name}: {gain_db:.1f} dB over a grey picture, which cannot be right"
            )
        if figures.mean("prior_bytes") > figures.mean("fixed_bytes"):
            raise recipe.RecipeError(f"{point.name}: the prior takes more bytes than the fixed length")


def _save_images(measured: dict[Point, Measured], path: Path) -> None:
    """Every image's figures, for intervals and other means."""
    lines: list[recipe.Row] = [
        {"family": point.family, "bits": point.bits, "image": number, **asdict(image)}
        for point, figures in measured.items()
        for number, image in enumerate(figures.images)
    ]
    recipe.save_csv(lines, path)


@contextmanager
def _progress(shown: bool) -> Iterator[Report]:
    with Progress(console=Console(stderr=True, quiet=not shown)) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield report


if __name__ == "__main__":
    recipe.run(main)
