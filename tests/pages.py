"""Pages of docs/: their examples, and their commands as a reader types them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from typer.testing import CliRunner

from ndsc.cli import app


def blocks(page: str, language: str) -> list[str]:
    """The text of each block of a language in a page's text."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run_ndsc(words: Sequence[str]) -> None:
    """A command of `ndsc`, without that name; it must succeed.

    `health` asks an address where nobody answers: flags and files are read before.
    """
    if words[0] == "health":
        result = CliRunner().invoke(app, ["health", "127.0.0.1:1", *words[2:]])
        assert "no service answers at 127.0.0.1:1" in str(result.exception)
    else:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
