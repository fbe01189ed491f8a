"""python -m training.experiments.cost: parameters, MAC a pixel and milliseconds, ours beside others'."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from matplotlib.ticker import FixedLocator, NullLocator
from rich.console import Console
from rich.progress import track

from training.experiments.cost.architectures import HEIGHT, WIDTH, published_systems
from training.experiments.cost.systems import Codec, bundle_codecs, measure, prepared
from training.experiments.recipe import RecipeError, Results, Row, run, use_threads
from training.plotting import COLOURS, new_figure, save_figure

PIXELS: Final = HEIGHT * WIDTH
AT_LEAST_S: Final = 1.0
"""Timed for each network, so that short ones run often."""
PUBLISHED: Final[Row] = {
    "system": "Neural DSC, published (range over families)",
    "published_encoder_parameters": "0.3-1.6 M",
    "published_encoder_gmac": "6.5-10",
    "published_encoder_ms": "93-168",
    "published_decoder_parameters": "2.2-5.1 M",
    "published_decoder_gmac": "24-42",
    "published_decoder_ms": "370-690",
    "published_prior_parameters": "0.4-0.9 M",
    "published_prior_steps": "512-8192",
}
"""The reference's own figures, one CPU thread, one 128x256 frame; not measured here."""
NOTES: Final = (
    "MAC: convolutions and matrix products, attention's included. Left out: elementwise work and look- "
    "ups, and the search of the codebook but in models/*, whose encoder graph holds it",
    "parameters: without codebooks but in models/*, whose graphs hold them, the encoder's in part twice",
    "published systems: layers from their repositories with random weights, timed in torch on this "
    "machine and not in the framework that they were written in",
    "prior: one run over all symbols, which is what an encoder does; a decoder takes prior_steps runs one "
    "after the other. decode_indices_ms is all of them, a run over the prefix for each symbol with no "
    "cache of keys and values, measured where it has a figure",
    "models/*: prior_ms and decode_indices_ms are packing and unpacking of a payload, range coding included",
    "Neural DSC: its residual layer, 3x3 then 1x1, is the paper's; the file of its code that defines it "
    "was not found",
    "DSIN: convolutions without bias and batch normalisation with scale and offset, as in its slim "
    "scopes; its decoder codes and decodes y as well, so the encoder is part of it; patches of 16x32 in "
    "place of 20x24",
    "NDIC: an earlier version runs its second up-sampling twice and its third never, at the same MAC",
    "training_only_parameters: NDIC's networks that code y, which decoding x does not need",
    "Ballé 2018: an encoder runs both halves of the hyperprior, a decoder the second alone",
)


def row_of(codec: Codec, runs: int, at_least_s: float, longest_decode: int) -> Row:
    """The line of one codec; `runs` 0 times nothing."""
    row: dict[str, str | float | int | None] = {"system": codec.name}
    for name in ("encoder", "decoder", "prior"):
        network = getattr(codec, name)
        # A factorised prior is a table: there is no network to time.
        times = measure(network.call, runs, at_least_s) if runs and network.count.mac else None
        row |= {
            f"{name}_parameters": network.count.parameters,
            f"{name}_mac_per_pixel": network.count.mac / PIXELS,
            f"{name}_ms": times.median_ms if times else None,
            f"{name}_spread_ms": times.spread_ms if times else None,
        }
    decode = codec.decode_indices if runs and codec.prior_steps <= longest_decode else None
    times = measure(decode, min(runs, 3), at_least_s) if decode else None
    return row | {
        "prior_steps": codec.prior_steps,
        "decode_indices_ms": times.median_ms if times else None,
        "decode_indices_spread_ms": times.spread_ms if times else None,
        "total_parameters": codec.total_parameters,
        "training_only_parameters": codec.training_only_parameters,
    }


def draw(rows: list[Row], output: Path) -> None:
    """Parameters against MAC of all that one frame takes, one run of the prior included."""
    figure, axes = new_figure(width=8.0, height=5.2)
    counted = [row for row in rows if row.get("total_parameters")]
    markers = {"Neural DSC": "o", "DSIN": "^", "NDIC": "D", "models": "*"}
    for colour, (group, marker) in zip(COLOURS, markers.items(), strict=False):
        mine = [row for row in counted if str(row["system"]).startswith(group)]
        million = [float(row["total_parameters"] or 0) / 1e6 for row in mine]
        parts = ("encoder", "decoder", "prior")
        mac = [sum(float(row[f"{part}_mac_per_pixel"] or 0) for part in parts) / 1000 for row in mine]
        axes.plot(
            million,
            mac,
            marker=marker,
            color=colour,
            markersize=12 if marker == "*" else 7,
            linestyle="none",
            label=group,
        )
        for i, (row, x, y) in enumerate(zip(mine, million, mac, strict=True)):
            label = str(row["system"]).removeprefix(f"{group} ").removeprefix("models/")
            label = label.split(",")[0] if " bits" in label else label
            # Below and above by turns, or neighbours would cover each other's.
            place = (0, 8) if i % 2 else (0, -16)
            axes.annotate(label, (x, y), place, textcoords="offset points", fontsize=8, ha="center")
    axes.legend(fontsize=8, loc="lower right")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1.2, 70)
    axes.set_ylim(20, 8000)
    for axis, ticks in ((axes.xaxis, (2, 5, 10, 20, 50)), (axes.yaxis, (30, 100, 300, 1000, 3000))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("parameters that coding and decoding x needs (millions)")
    axes.set_ylabel("multiply-accumulates a pixel of x (thousands)")
    axes.set_title("Encoder + decoder with side network + one run of the prior, 128x256", fontsize=11)
    save_figure(figure, output / "plot")


def main(
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("docs/results/cost"),
    smoke: Annotated[bool, typer.Option("--smoke", help="Count all, time little.")] = False,
    bundle: Annotated[Path, typer.Option(help="The bundle of this project.")] = Path("models/default"),
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each network.")] = 7,
    longest_decode: Annotated[
        int, typer.Option(min=1, help="Time a prior's decoder up to so many steps.")
    ] = 512,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch; onnxruntime has one.")] = 1,
) -> None:
    """Parameters, MAC a pixel and milliseconds of encoder, decoder and prior."""
    use_threads(threads)
    torch.manual_seed(0)
    results = Results(
        "cost", {"runs": runs, "bundle": str(bundle), "height": HEIGHT, "width": WIDTH}, smoke=smoke
    )
    codecs = [*bundle_codecs(bundle), *(prepared(system) for system in published_systems())]
    for codec in track(codecs, "codecs", console=Console(stderr=True)):
        timed = not smoke or codec.name.startswith("models/")
        results.rows.append(row_of(codec, runs if timed else 0, 0.0 if smoke else AT_LEAST_S, longest_decode))
    check(results.rows)
    results.rows.append(PUBLISHED)
    results.notes += [*NOTES, f"load average while timing: {os.getloadavg()[0]:.1f}"]
    results.save(output)
    draw(results.rows, output)


def check(rows: list[Row]) -> None:
    """Neural DSC's counts against its own figures. Raises RecipeError when they lie outside."""
    ranges = {"encoder": (0.3e6, 1.65e6, 6.5e9, 10.3e9), "decoder": (2.15e6, 5.15e6, 23.5e9, 42.0e9)}
    for row in rows:
        system = str(row["system"])
        # The first version of 8x is of the other experiment, with frames of the same size.
        if not system.startswith("Neural DSC") or "8x-first" in system:
            continue
        for part, (fewest, most, least, largest) in ranges.items():
            parameters = float(row[f"{part}_parameters"] or 0)
            mac = float(row[f"{part}_mac_per_pixel"] or 0) * PIXELS
            if not (fewest <= parameters <= most and least <= mac <= largest):
                raise RecipeError(f"{system}: {part} of {parameters:.3g} parameters, {mac:.3g} MAC")


if __name__ == "__main__":
    run(main)
