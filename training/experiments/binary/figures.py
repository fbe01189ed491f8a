"""Rows and plots of the binary source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from training.experiments.binary.blocks import BLOCK_BITS, MESSAGE_BITS, Failures
from training.experiments.binary.limits import converse, ignoring, normal_approximation
from training.experiments.binary.parts import Tally
from training.experiments.recipe import Row
from training.experiments.seeds import estimate
from training.plotting import COLOURS, PUBLISHED, new_figure, save_figure
from training.published import load_published

LDPC: Final = "802.11n LDPC, product-sum"
GUESSING: Final = "802.11n LDPC, product-sum, serial, guessing"
BASELINES: Final = LDPC, GUESSING

_PAPER: Final = {
    **dict.fromkeys(BASELINES, "LDPC syndromes"),
    "paper, joint": "VQ-VAE, joint",
    "paper, distributed": "VQ-VAE, distributed",
}
"""The system of `training.published` that a code stands beside."""


def _paper_figure(code: str, crossover: float) -> float | None:
    task = load_published("binary_block_error_rate")
    return dict(task.curve(_PAPER[code]).points).get(crossover) if code in _PAPER else None


def table(tallies: Iterable[Tally]) -> list[Row]:
    """One row for each code and p, its seeds together; bars both ways."""
    groups: dict[tuple[str, float], list[Tally]] = {}
    for tally in tallies:
        groups.setdefault((tally.code, tally.crossover), []).append(tally)
    rows: list[Row] = []
    for (code, crossover), group in groups.items():
        pooled = sum((t.failures for t in group), Failures(0, 0))
        low, high = pooled.interval
        wrong = sum((t.wrong_message for t in group if t.wrong_message), Failures(0, 0))
        rates = [t.failures.rate for t in group]
        bits = group[0].block_bits, group[0].message_bits
        rows.append(
            {
                "code": code,
                "p": crossover,
                "block_bits": bits[0],
                "message_bits": bits[1],
                "seeds": len(group),
                "blocks": pooled.blocks,
                "failed": pooled.failed,
                "bler": pooled.rate,
                "bler_low": low,
                "bler_high": high,
                "seeds_95": estimate(rates).half_width if len(rates) > 1 else None,
                "bler_wrong_message": wrong.rate if wrong.blocks else None,
                "bler_ignoring": ignoring(crossover, bits[0]),
                "bler_converse": converse(crossover, *bits),
                "bler_normal_approximation": normal_approximation(crossover, *bits),
                "bler_paper": _paper_figure(code, crossover),
            }
        )
    return rows


def _number(row: Row, name: str) -> float:
    return float(row[name] or 0)


def draw_rates(rows: Sequence[Row], long_piece_bits: int, piece_bits: int, output: Path) -> None:
    """plot.png and .svg: block error rate against p."""
    figure, axes = new_figure(width=8.6, height=5.6)
    at = np.geomspace(5e-4, 0.032, 200).tolist()
    sizes = BLOCK_BITS, MESSAGE_BITS
    axes.plot(at, [ignoring(p, BLOCK_BITS) for p in at], color=COLOURS[6], label="ignore the message")
    axes.plot(
        at,
        [normal_approximation(p, *sizes) for p in at],
        color=COLOURS[6],
        linestyle="--",
        label="normal approximation",
    )
    axes.plot(
        at, [converse(p, *sizes) for p in at], color=COLOURS[6], linestyle=":", label="no code is below"
    )
    for curve, marker in zip(load_published("binary_block_error_rate").curves, "s+x", strict=True):
        crossovers, rates = zip(*(point for point in curve.points if point[0] > 0), strict=True)
        label = f"{curve.system}, paper's figure"
        axes.plot(crossovers, rates, color=PUBLISHED, marker=marker, markersize=5, label=label)
    ours = [
        ("paper, joint", "joint, our run", COLOURS[4], "1"),
        ("paper, distributed", "distributed, our run", COLOURS[3], "2"),
        ("logits, joint", "joint, y in the logits", COLOURS[4], "3"),
        ("logits, distributed", "distributed, y in the logits", COLOURS[3], "4"),
        (f"phase {piece_bits}, random encoder, learned decoder", "random parities", COLOURS[5], "v"),
        (
            f"phase {piece_bits}, learned encoder, learned decoder",
            "phase code, both ends learned",
            COLOURS[1],
            "o",
        ),
        (
            f"phase {long_piece_bits}, learned encoder, likeliest pattern",
            f"phase code of {long_piece_bits}, decoded by table",
            COLOURS[2],
            "D",
        ),
        (LDPC, "802.11n LDPC, flooding", COLOURS[0], "^"),
        (GUESSING, "802.11n LDPC, serial, guessing", COLOURS[0], "P"),
    ]
    for code, label, colour, marker in ours:
        mine = sorted((row for row in rows if row["code"] == code), key=lambda row: _number(row, "p"))
        if not mine:
            continue
        seen = [row for row in mine if row["failed"]]
        below = [_number(row, "bler") - _number(row, "bler_low") for row in seen]
        above = [_number(row, "bler_high") - _number(row, "bler") for row in seen]
        axes.errorbar(
            [_number(row, "p") for row in seen],
            [_number(row, "bler") for row in seen],
            [below, above],
            color=colour,
            marker=marker,
            markersize=9 if marker in "1234" else 6,
            linewidth=1.2,
            capsize=2.5,
            label=label,
        )
        # Nothing failed: the rate is below this, with 97.5 % confidence.
        none = [row for row in mine if not row["failed"]]
        axes.plot(
            [_number(row, "p") for row in none],
            [_number(row, "bler_high") for row in none],
            color=colour,
            marker=r"$\downarrow$",
            markersize=9,
            linestyle="none",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(2e-5, 1.5)
    axes.set_xlabel("p: probability that a bit of y differs from x")
    axes.set_ylabel("block error rate")
    axes.set_title("648 bits of x through 162; arrows: no failure, 95 % interval ends there", fontsize=11)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    save_figure(figure, output / "plot")


def draw_short(rows: Sequence[Row], messages: Sequence[int], output: Path) -> None:
    """short.png and .svg: what a message of k bits is worth on blocks of 2^k − 1."""
    lengths = [2**k - 1 for k in messages]
    figure, axes = new_figure(width=6.4, height=4.2)
    series = [
        ("paper, distributed", "paper's VQ-VAE", COLOURS[3], "s"),
        ("logits, distributed", "the same, y in the logits", COLOURS[4], "D"),
        ("phase", "phase code", COLOURS[1], "o"),
    ]
    for name, label, colour, marker in series:
        mine = [row for bits in lengths for row in rows if row["code"] == f"{name}, n = {bits}"]
        ignored = [_number(row, "bler_ignoring") for row in mine]
        axes.errorbar(
            [_number(row, "block_bits") for row in mine],
            [_number(row, "bler") / i for row, i in zip(mine, ignored, strict=True)],
            [_number(row, "seeds_95") / i for row, i in zip(mine, ignored, strict=True)],
            color=colour,
            marker=marker,
            capsize=3,
            label=label,
        )
        if name == "phase":
            floor = [_number(row, "bler_converse") / i for row, i in zip(mine, ignored, strict=True)]
            axes.plot(
                lengths, floor, color=COLOURS[6], linestyle=":", marker=".", label="no code is below: Hamming"
            )
    axes.axhline(1, color=COLOURS[6], label="ignore the message")
    axes.set_xscale("log")
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.minorticks_off()
    axes.set_ylim(0, 1.15)
    axes.set_xlabel("n = 2^k − 1: bits of x; k bits are sent")
    axes.set_ylabel("block error rate / that of ignoring")
    axes.set_title("Short blocks: bars are 95 % over seeds", fontsize=11)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    save_figure(figure, output / "short")
