"""What came out: out/robustness.json and a table."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ndsc.codec.files import write_whole
from tests.exactness import machine
from tests.robustness.checkers import PROMISES
from tests.robustness.runner import Result


def write_report(path: Path, results: Sequence[Result], **facts: Any) -> None:
    """Write all results as JSON. Raises OutputError."""
    report = {
        "passed": all(result.status == "kept" for result in results),
        "command": shlex.join(["python", "-m", "tests.robustness", *sys.argv[1:]]),
        **facts,
        "machine": machine.facts(),
        "faults": [_fault(result) for result in results],
        "promises": [
            {
                "promise": verdict.promise,
                "fault": result.fault,
                "cameras": verdict.cameras,
                **dataclasses.asdict(verdict.counts),
                "violations": verdict.violations,
            }
            for result in results
            for verdict in result.verdicts
        ],
    }
    write_whole(path, json.dumps(report, indent=2).encode() + b"\n")


def _fault(result: Result) -> dict[str, Any]:
    return {
        "fault": result.fault,
        "description": result.description,
        "status": result.status,
        "why": result.why,
        "seconds": result.seconds,
        "cameras": {camera: dataclasses.asdict(counts) for camera, counts in result.counts.items()},
    }


def print_table(results: Sequence[Result], console: Console) -> None:
    """Violations of each promise under each fault, and the frames of all its cameras."""
    counts = ("sent", "decoded", "failed", "dropped", "unknown")
    table = Table(title="violations of each promise under each fault; frames of all cameras")
    table.add_column("fault")
    for name in (*(promise.name for promise in PROMISES), *counts):
        table.add_column(name, justify="right")
    table.add_column("")
    for result in results:
        found = {verdict.promise: str(len(verdict.violations)) for verdict in result.verdicts}
        totals = [sum(getattr(one, name) for one in result.counts.values()) for name in counts]
        status = result.status if not result.why else f"{result.status}: {result.why}"
        cells = [found.get(promise.name, "·") for promise in PROMISES]
        table.add_row(result.fault, *cells, *map(str, totals), status)
    console.print(table)
