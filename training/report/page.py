"""The report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

_TYPES: Final = {".svg": "image/svg+xml", ".png": "image/png"}


def data_uri(path: Path) -> str:
    """A PNG or SVG file as an address that holds it."""
    return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def figure(value: Any, digits: int = 4) -> str:
    """A table's cell: floats with `digits` digits, None as a dash, a minus that is one."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"
        return text.replace("-", "−")
    return str(value)


def fixed(value: float | None, digits: int) -> str:
    """A number with so many digits after the point; None as a dash."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def render(facts: Mapping[str, Any]) -> str:
    """The page from what the template names."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"figure": figure, "fixed": fixed, "data_uri": data_uri}
    template = environment.from_string(Path(__file__).with_name("page.html").read_text())
    return template.render(facts)
