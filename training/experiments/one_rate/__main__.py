"""`python -m training.experiments.one_rate`: bytes that a model for many rates takes more than one for one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from training.checkpoint import Checkpoint, digest
from training.config import Precision
from training.experiments.codec import figures, variants
from training.experiments.codec.measured import Kind, excess, measure
from training.experiments.codec.pairs import Views, held_out_pairs
from training.experiments.codec.trained import Trained, train_variant
from training.experiments.one_rate.level import only_level
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
from training.run import Run
from training.scalar_codec import ScalarCodec

MANY: Final = "many rates"


@dataclass(frozen=True)
class Dials:
    """What a run of the recipe is made of."""

    steps: int = 1500
    """For one rate alone, from the codec of many."""
    batch_size: int = 8
    levels: tuple[int, ...] = (2, 5)
    learning_rate: float = 5e-4
    muon_learning_rate: float = 1e-3
    gain_learning_rate: float = 5e-3
    rate_learning_rate: float = 2e-3
    """These four are half of what a codec is trained with from the start."""
    finish_steps: int = 600
    """Of each of two fits of `training.finish` afterwards. The codec of many rates has had its own."""
    precision: Precision = "fp32"
    seed: int = 0


SMOKE: Final = Dials(steps=4, batch_size=2, levels=(1,), finish_steps=1)


def main(
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint of the codec of many rates, finished.")
    ] = None,
    stereo: Annotated[Path | None, typer.Option(help="Folder with train/ and val/ of pairs.")] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Measure on test/ and test_jpeg/ of that folder, and not on val/.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder of runs and results; finished runs are kept.")] = Path(
        "runs/one_rate"
    ),
    smoke: Annotated[bool, typer.Option(help="Everything in seconds, on synthetic drives.")] = False,
    steps: Annotated[int, typer.Option(min=2, help="Training steps for one rate alone.")] = Dials.steps,
    level: Annotated[list[int] | None, typer.Option(help="A level to train for alone; repeatable.")] = None,
    precision: Annotated[Precision, typer.Option(help="What the networks train in.")] = Dials.precision,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 1,
) -> None:
    """Train the codec on for one of its rates alone, and read off what the codec of many takes at its PSNR.

    The model for one rate has all the steps of the other and these on top, without synthetic pairs: what it saves
    is an estimate and no bound.
    """
    use_threads(threads)
    place = pick_device(device)
    dials = SMOKE
    if not smoke:
        levels = tuple(level or Dials.levels)
        dials = replace(Dials(), steps=steps, levels=levels, precision=precision)
    pairs, held_out = held_out_pairs(stereo, smoke=smoke, test=test)
    many = _untrained() if smoke else _finished(start)
    singles = {number: only_level(many, number) for number in dials.levels}
    curves: dict[tuple[str, Kind], Curve] = {(MANY, "right"): _measured(many, held_out)}
    rows: list[Row] = []
    with Progress(console=Console(stderr=True)) as progress:
        for number, alone in singles.items():
            name = f"level {number} alone"
            settings = replace(
                alone.train_config,
                steps=dials.steps,
                batch_size=dials.batch_size,
                learning_rate=dials.learning_rate,
                muon_learning_rate=dials.muon_learning_rate,
                gain_learning_rate=dials.gain_learning_rate,
                rate_learning_rate=dials.rate_learning_rate,
                learning_rate_warmup_steps=min(100, dials.steps // 2),
                synthetic_share=1.0 if smoke else 0.0,
                precision=dials.precision,
            )
            trained = train_variant(
                variants.Variant(name, alone.model_config, settings),
                dials.seed,
                variants.Dials(prior_steps=2 * dials.finish_steps),
                pairs,
                output / "parts" / f"level-{number}",
                advance_of(progress, name),
                device=place,
                start=alone,
            )
            right = measure(trained, held_out, name)["right"]
            curves[name, "right"] = right
            rows.append(_row(number, curves[MANY, "right"], right, trained.seconds))
    notes = [
        f"{len(pairs)} training pairs, {len(held_out)} measured; weights {digest(many.averaged)[:16]}",
        "excess: bytes that the codec of many rates takes more at the PSNR of the one for this rate, percent",
        "intervals: 95 % bootstrap over pictures; they hold no spread of training runs",
        f"finished in 2 x {dials.finish_steps} steps, of many rates in 2 x {many.facts.get('finish_steps', 0)}",
    ]
    seconds = sum(float(row["seconds"] or 0) for row in rows)
    results = Results("one_rate", asdict(dials), smoke, device, rows, notes, seconds)
    folder = output / "test" if test else output
    results.save(folder)
    figures.plot(curves, folder / "plot")
    print(markdown_table(rows))


def _finished(start: Path | None) -> Checkpoint:
    if start is None:
        raise RecipeError("give --start, the checkpoint of a codec of many rates, or --smoke")
    many = Checkpoint.load(start)
    if many.model_config.quantizer == "scalar" and not many.finished:
        raise RecipeError(
            f"{start}: the codecs of one rate will be finished, so finish it first (training.finish)"
        )
    return many


def _untrained() -> Checkpoint:
    variant = variants.variants(variants.SMOKE, synthetic=True)[0]
    return Run(variant.model, variant.train, torch.device("cpu")).checkpoint()


def _measured(checkpoint: Checkpoint, held_out: Views) -> Curve:
    model = checkpoint.averaged_model()
    assert isinstance(model, ScalarCodec)  # `only_level` has refused any other
    return measure(Trained(model, model.rate_model.prior(), 0.0), held_out, MANY)["right"]


def _row(level: int, many: Curve, one: Curve, seconds: float) -> Row:
    (rate,), (quality,) = one.mean()
    rates, qualities = many.mean()
    found = excess(many, one) or (None, None, None)
    return {
        "level": level,
        "bpp": float(rate),
        "psnr_db": float(quality),
        "many_bpp": float(rates[level]),
        "many_psnr_db": float(qualities[level]),
        **dict(zip(("excess", "excess_low", "excess_high"), found, strict=True)),
        "seconds": seconds,
    }


if __name__ == "__main__":
    run(main)
