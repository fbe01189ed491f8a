"""What a benchmark leaves: figures with their spread, and what they were measured on."""

from __future__ import annotations

import json
import math
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ndsc.codec.files import write_whole
from tests.exactness import machine


def arguments(name: str, description: str | None) -> ArgumentParser:
    """A parser with what all benchmarks have in common."""
    parser = ArgumentParser(f"python -m tests.benchmarks.{name}", description=description)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(f"out/benchmarks/{name}.json"), help="JSON to write"
    )
    parser.add_argument("--runs", type=at_least(1, int), default=3, help="how often to measure each figure")
    return parser


def at_least(least: float, kind: type[float] = float) -> Callable[[str], float]:
    """An argument's type: numbers that are not smaller."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError as error:
            raise ArgumentTypeError(f"{text} is no {kind.__name__}") from error
        if not value >= least:
            raise ArgumentTypeError(f"{text} is less than {least:g}")
        return value

    return number


def spread(values: Iterable[float], digits: int = 3) -> dict[str, float]:
    """Median, least and most."""
    ordered = sorted(values)
    return {
        "median": round(median(ordered), digits),
        "least": round(ordered[0], digits),
        "most": round(ordered[-1], digits),
    }


def spreads(runs: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The spread of each figure over several runs."""
    return {name: spread(run[name] for run in runs) for name in runs[0]}


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that such a share of all does not exceed. Raises ValueError where there are none."""
    if not values:
        raise ValueError("no values, so no percentile")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def write_report(path: Path, figures: dict[str, Any]) -> None:
    """Figures as JSON, with the machine, its load before, and the command. Raises OutputError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "command": " ".join(["python", "-m", *_module(), *sys.argv[1:]]),
        "machine": machine.facts(),
        "load_average_1_5_15_min": [round(load, 2) for load in os.getloadavg()],
        **figures,
    }
    write_whole(path, json.dumps(report, indent=2).encode() + b"\n")
    print(f"wrote {path}")


def _module() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return [spec.name] if spec is not None else []
