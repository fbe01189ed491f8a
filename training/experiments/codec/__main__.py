"""`python -m training.experiments.codec`: the codec, and the codec without each of its parts, at equal budget."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from training.config import Precision
from training.experiments.codec import figures
from training.experiments.codec.measured import KINDS, Kind, mean_of, measure
from training.experiments.codec.pairs import held_out_pairs
from training.experiments.codec.paper import PAPER, measure_paper, train_paper
from training.experiments.codec.trained import train_variant
from training.experiments.codec.variants import SMOKE, WHOLE, Dials, variants
from training.experiments.recipe import (
    RecipeError,
    Results,
    Row,
    advance_of,
    markdown_table,
    pick_device,
    run,
    use_threads,
)
from training.report.bd_rate import Curve


def main(
    stereo: Annotated[Path | None, typer.Option(help="Folder with train/ and val/ of pairs.")] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Measure on test/ and test_jpeg/ of that folder, and not on val/.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder of runs and results; finished runs are kept.")] = Path(
        "runs/codec"
    ),
    smoke: Annotated[bool, typer.Option(help="Everything in seconds, on synthetic drives.")] = False,
    steps: Annotated[
        int,
        typer.Option(min=2, help="Training steps of a codec, but of the one that is said to take more."),
    ] = Dials.steps,
    batch_size: Annotated[int, typer.Option(min=1, help="Crops of a step.")] = Dials.batch_size,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = Dials.seeds,
    prior_steps: Annotated[
        int, typer.Option(min=1, help="Steps of the prior, or of fitting the rate model, afterwards.")
    ] = Dials.prior_steps,
    paper_bits: Annotated[
        list[int] | None, typer.Option(min=1, help="Bits of an index of a code of the paper's; repeatable.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help='Of the variants only this one; repeatable. Without "all parts" among them they are '
            "trained and there is no table: to work on several side by side."
        ),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="What the networks train in.")] = Dials.precision,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 1,
) -> None:
    """Train the codec and its variants, measure them on val in real bytes, and compare."""
    use_threads(threads)
    place = pick_device(device)
    dials = SMOKE
    if not smoke:
        dials = replace(
            Dials(),
            steps=steps,
            batch_size=batch_size,
            seeds=seeds,
            prior_steps=prior_steps,
            paper_bits=tuple(paper_bits or Dials.paper_bits),
            precision=precision,
        )
    trainable = variants(dials, synthetic=smoke)
    names = [*(variant.name for variant in trainable), PAPER]
    if unknown := sorted(set(only or []) - set(names)):
        raise RecipeError(f"--only {unknown[0]}: the variants are {', '.join(names)}")
    compared = not only or WHOLE in only
    pairs, held_out = held_out_pairs(stereo, smoke=smoke, test=test)
    curves: dict[tuple[str, Kind], Curve] = {}
    seconds: dict[str, float] = {}

    def keep(name: str, measured: list[dict[Kind, Curve]], trained_seconds: float) -> None:
        curves.update({(name, kind): mean_of([one[kind] for one in measured], name) for kind in KINDS})
        seconds[name] = trained_seconds

    with Progress(console=Console(stderr=True)) as progress:
        for variant in trainable:
            if only and variant.name not in only:
                continue
            found = [
                train_variant(
                    variant,
                    seed,
                    dials,
                    pairs,
                    _folder(output, variant.name, seed),
                    advance_of(progress, f"{variant.name}, seed {seed}"),
                    device=place,
                )
                for seed in range(dials.seeds)
            ]
            if compared:
                measured = [measure(one, held_out, variant.name) for one in found]
                if variant.train.side_dropout == 1:  # no y for a decoder that never saw one
                    measured = [dict.fromkeys(KINDS, one["none"]) for one in measured]
                keep(variant.name, measured, sum(one.seconds for one in found))
        if not only or PAPER in only:
            codes = [
                [
                    train_paper(
                        bits,
                        seed,
                        dials,
                        pairs,
                        _folder(output, f"paper {bits} bits", seed),
                        advance_of(progress, f"{PAPER}, {bits} bits, seed {seed}"),
                        synthetic=smoke,
                        device=place,
                    )
                    for bits in dials.paper_bits
                ]
                for seed in range(dials.seeds)
            ]
            if compared:
                of_all = sum(code.seconds for of_seed in codes for code in of_seed)
                keep(PAPER, [measure_paper(of_seed, held_out) for of_seed in codes], of_all)
    if not compared:
        return
    rows = figures.table(curves, seconds) if not smoke else _smoke_rows(curves)
    notes = [
        f"{len(pairs)} training pairs, {len(held_out)} measured; {dials.steps} steps of {dials.batch_size} crops, "
        f"{len(dials.paper_bits)} times as many where the name says so; the paper's codes: as many crops each, "
        f"in steps of {dials.paper_batch_size}",
        "intervals: 95 % bootstrap over pictures, of means over seeds; they hold no spread of training runs",
        "the release trains longer, and on synthetic drives too",
    ]
    results = Results("codec", asdict(dials), smoke, device, rows, notes, sum(seconds.values()) or None)
    folder = output / "test" if test else output
    results.save(folder)
    figures.plot(curves, folder / "plot")
    print(markdown_table(rows))


def _folder(output: Path, name: str, seed: int) -> Path:
    """Where a run is kept."""
    return output / "parts" / f"{name.replace(',', '').replace(' ', '-')}-{seed}"


def _smoke_rows(curves: figures.Curves) -> list[Row]:
    """Untrained codecs have no BD-rate: their rates and qualities alone."""
    rows: list[Row] = []
    for (name, kind), curve in curves.items():
        rate, quality = curve.mean()
        rows.append({"variant": name, "y": kind, "bpp": float(rate.mean()), "psnr_db": float(quality.mean())})
    return rows


if __name__ == "__main__":
    run(main)
