"""What the recipes left in `docs/results`, read for the page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndsc.codec.errors import NdscError


class RecipeResultsError(NdscError):
    """A folder of results is not what a recipe writes."""


@dataclass(frozen=True)
class RecipeResults:
    """One folder with a recipe's results.json."""

    name: str
    record: dict[str, Any]
    """results.json as it is (`training.experiments.recipe`)."""
    plots: tuple[Path, ...]
    """PNG files; an SVG of the same name lies beside each."""

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns in order."""
        return list(dict.fromkeys(name for row in self.record["rows"] for name in row))


def collect_recipes(directory: Path) -> list[RecipeResults]:
    """All folders below `directory` that hold a results.json, by name; none where there is no such folder.

    Raises RecipeResultsError for a file that no recipe wrote.
    """
    found = []
    for path in sorted(directory.glob("*/results.json")):
        try:
            record = json.loads(path.read_text())
            complete = (
                isinstance(record["rows"], list)
                and {"command", "seconds", "machine", "date"} <= record.keys()
            )
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise RecipeResultsError(f"{path}: not the results of a recipe; run it again or remove the file")
        plots = tuple(sorted(path.parent.glob("*.png")))
        found.append(RecipeResults(path.parent.name, record, plots))
    return found
