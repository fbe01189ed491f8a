"""What every recipe leaves behind: results.json and table.csv, with what made them."""

from __future__ import annotations

import csv
import datetime
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
import typer
from rich.progress import Progress

from ndsc.codec.errors import NdscError

Row = Mapping[str, str | float | int | bool | None]
"""One line of a results table."""

Advance = Callable[[int, int], None]
"""Called as advance(steps done, steps)."""


class RecipeError(NdscError):
    """A recipe cannot run, or its results cannot be right."""


@dataclass(frozen=True)
class Machine:
    """Where figures were made."""

    cpu: str
    threads: int
    gpu: str | None
    python: str
    torch: str

    @classmethod
    def here(cls, device: str = "cpu") -> Machine:
        """This machine, as torch uses it now."""
        return cls(
            cpu=_cpu_name(),
            threads=torch.get_num_threads(),
            gpu=torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
            python=platform.python_version(),
            torch=torch.__version__,
        )


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass
class Results:
    """Figures of one recipe, written by `save`.

    `rows` is the table, one mapping for each line; every figure in it was measured in this run or is named as
    published in its column. `seconds` counts all sessions of a resumed recipe: training and measuring, or
    training alone where the page says so.
    """

    recipe: str
    settings: Mapping[str, Any]
    smoke: bool = False
    device: str = "cpu"
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float | None = None
    """None: the time since this object was made."""
    started: float = field(default_factory=monotonic)

    def save(self, directory: Path) -> Path:
        """Write results.json and table.csv; returns the path of results.json."""
        directory.mkdir(parents=True, exist_ok=True)
        rows = [{k: _plain(v) for k, v in row.items()} for row in self.rows]
        record = {
            "recipe": self.recipe,
            "command": command_line(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "seconds": round(self.seconds if self.seconds is not None else monotonic() - self.started, 1),
            "machine": asdict(Machine.here(self.device)),
            "smoke": self.smoke,
            "settings": dict(self.settings),
            "notes": self.notes,
            "rows": rows,
        }
        path = directory / "results.json"
        path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        save_csv(self.rows, directory / "table.csv")
        return path


def save_csv(rows: Sequence[Row], path: Path) -> None:
    """Rows as CSV, a column for each name that any of them has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        # Six digits are more than any figure here is worth; JSON knows no infinity.
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def command_line() -> str:
    """The command that runs now, without the folders that its paths lie in."""
    module = Path(sys.argv[0])
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else module.name
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return f"python -m {name} {shlex.join(words)}".strip()


def markdown_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Rows as a Markdown table; floats with four digits, None as a dash."""
    names = list(columns or dict.fromkeys(name for row in rows for name in row))

    def cell(value: Any) -> str:
        if value is None:
            return "–"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(cell(row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def advance_of(progress: Progress, label: str) -> Advance:
    """A new line of the progress display, and what moves it."""
    task = progress.add_task(label)
    return lambda done, total: progress.update(task, completed=done, total=total)


def use_threads(threads: int) -> None:
    """Let torch compute on `threads` CPU threads; 0 leaves the choice to torch."""
    if threads:
        torch.set_num_threads(threads)


def pick_device(name: str) -> torch.device:
    """The device of a `--device` option, for recipes of one process.

    Raises RecipeError for a name that torch does not know, when it asks for CUDA and there is none, or when
    torchrun has started several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("this recipe runs in one process: start it without torchrun")
    try:
        place = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"--device {name}: cpu or cuda") from error
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError("this torch finds no CUDA device: give --device cpu, or install a CUDA build")
    return place


def run(main: Callable[..., None]) -> None:
    """Run a recipe's command: bad input ends in one line and exit status 1."""
    try:
        typer.run(main)
    except (NdscError, OSError) as error:
        sys.exit(f"error: {error}")
