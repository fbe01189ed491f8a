"""Every recipe's smoke run, as its own process: it ends well, in time, and leaves sane results."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.experiments.recipe import Results, Row, markdown_table

RECIPES = (
    "ablation",
    "binary",
    "bound",
    "codec",
    "cost",
    "gradients",
    "multiview",
    "one_rate",
    "slepian_wolf",
    "sources",
    "stereo",
)
SMOKE_BOUND_S = 60
"""On two cores."""


@pytest.mark.timeout(2 * SMOKE_BOUND_S)
@pytest.mark.parametrize("recipe", RECIPES)
def test_smoke(recipe: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"training.experiments.{recipe}", "--smoke", "--output", str(tmp_path)]
    started = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=2 * SMOKE_BOUND_S - 10)
    seconds = time.monotonic() - started
    assert ended.returncode == 0, ended.stderr
    assert seconds <= SMOKE_BOUND_S

    record = json.loads((tmp_path / "results.json").read_text())
    assert record["recipe"] == recipe
    assert record["smoke"] is True
    assert record["command"].startswith(f"python -m training.experiments.{recipe} --smoke")
    assert record["rows"]
    figures = [v for row in record["rows"] for v in row.values() if isinstance(v, float)]
    assert figures
    assert all(math.isfinite(v) for v in figures)
    with (tmp_path / "table.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(record["rows"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_full_results_are_in_the_project_with_the_command_that_made_them(recipe: str) -> None:
    folder = Path(__file__).parents[2] / "docs" / "results" / recipe
    record = json.loads((folder / "results.json").read_text())
    assert record["smoke"] is False
    assert record["command"].startswith(f"python -m training.experiments.{recipe}")
    assert record["command"] in (folder / "README.md").read_text()
    assert record["machine"]["cpu"]
    assert record["seconds"] > 0


def test_results_hold_what_made_them_and_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--pairs", str(tmp_path / "test"), "--smoke"])
    rows: list[Row] = [{"a": 1.23456789, "b": None}, {"a": math.inf, "c": "text"}]
    path = Results("name", {"steps": 3}, rows=rows).save(tmp_path / "out")
    record = json.loads(path.read_text())
    assert record["command"].endswith("--pairs test --smoke")
    assert record["settings"] == {"steps": 3}
    assert record["rows"] == [{"a": 1.23457, "b": None}, {"a": None, "c": "text"}]
    assert (tmp_path / "out" / "table.csv").read_text() == "a,b,c\n1.23457,,\n,,text\n"


def test_markdown_table_has_every_column_once() -> None:
    table = markdown_table([{"a": 1.23456, "b": "x"}, {"b": None, "c": 2}])
    assert table.splitlines() == ["| a | b | c |", "|---|---|---|", "| 1.235 | x | – |", "| – | – | 2 |"]
