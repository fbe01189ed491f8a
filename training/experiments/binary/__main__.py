"""python -m training.experiments.binary: the binary source. See the package's docstring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from training.experiments.binary import figures
from training.experiments.binary.blocks import BLOCK_BITS, MESSAGE_BITS
from training.experiments.binary.limits import crossover_at
from training.experiments.binary.parts import SMOKE, Dials, Tally, kept, plan
from training.experiments.recipe import RecipeError, Results, Row, advance_of, pick_device, run, use_threads


def check(rows: Sequence[Row], piece_bits: int) -> None:
    """Raises RecipeError when results cannot be right."""
    learned = f"phase {piece_bits}, learned encoder, learned decoder"
    for row in rows:
        code, p = str(row["code"]), float(row["p"] or 0)
        if code in figures.BASELINES and p <= 0.010 and float(row["bler_low"] or 0) > 1e-3:
            raise RecipeError(f"{code}: {row['failed']} of {row['blocks']} blocks failed at p = {p}")
        if code == learned and float(row["bler_high"] or 0) >= float(row["bler_ignoring"] or 0):
            raise RecipeError(f"{code}: no better than ignoring the message at p = {p}; train it longer")
        if float(row["bler_high"] or 0) < float(row["bler_converse"] or 0):
            raise RecipeError(f"{code}: better than any code can be at p = {p}")


def main(
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("docs/results/binary"),
    work: Annotated[
        Path | None,
        typer.Option(help="Folder of finished parts; runs/binary, or in --output of a smoke run."),
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="The same code in seconds.")] = False,
    epochs: Annotated[
        float, typer.Option(min=0.05, help="Of 50,000 pairs, for the paper's codes.")
    ] = Dials.epochs,
    seeds: Annotated[int, typer.Option(min=2, help="Phase codes trained.")] = Dials.seeds,
    ldpc_blocks: Annotated[int, typer.Option(min=1, help="At each p.")] = Dials.ldpc_blocks,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Do this part and draw no table, to work side by side; repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave this part out of table and plots; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 1,
) -> None:
    """LDPC syndromes, the paper's neural codes and a neural code that uses its message, against the bounds."""
    use_threads(threads)
    place = pick_device(device)
    dials = SMOKE if smoke else replace(Dials(), epochs=epochs, seeds=seeds, ldpc_blocks=ldpc_blocks)
    parts = plan(dials)
    if unknown := sorted({*(only or []), *(without or [])} - set(parts)):
        raise RecipeError(f"{unknown[0]} is no part: they are {', '.join(parts)}")
    chosen = [name for name in only or parts if name not in (without or [])]
    folder = work or (output / "parts" if smoke else Path("runs/binary"))
    tallies: list[Tally] = []
    notes: list[str] = []
    seconds = 0.0
    with Progress(console=Console(stderr=True)) as progress:
        for name in chosen:
            make, settings = parts[name]
            part = kept(name, make, dials, place, folder, advance_of(progress, name), settings)
            tallies += part.tallies
            notes += part.notes
            seconds += part.seconds
    if only:
        return
    rows = figures.table(tallies)
    check(rows, dials.phase.piece_bits)
    at = crossover_at(1e-3, BLOCK_BITS, MESSAGE_BITS)
    if without:
        notes.append(f"not done: {', '.join(without)}")
    notes += [
        "bler_low and bler_high: 95 % of Clopper and Pearson over all blocks; seeds_95: half of the 95 % interval "
        "over seeds (Student's t)",
        "bler_wrong_message: each block decoded with the message of another",
        f"normal approximation: block error rate 1e-3 at p = {at:.4f}",
    ]
    Results("binary", asdict(dials), smoke, device, rows, notes, seconds).save(output)
    figures.draw_rates(rows, dials.long_piece_bits, dials.phase.piece_bits, output)
    if "short" in chosen:
        figures.draw_short(rows, dials.short_messages, output)


if __name__ == "__main__":
    run(main)
