"""The report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

_LARGEST_SVG_BYTES: Final = 200_000
_METADATA: Final = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_GROUP_ID: Final = re.compile(r'<g id="[^"]*">')
_REFERENCE: Final = re.compile(r'( id="|url\(#|href="#)')
_FONTS: Final = re.compile(r"font-family: [^;\"]*")
_TAG: Final = re.compile(r"<[^>]+>")
_DECIMALS: Final = re.compile(r"(\.\d\d)\d+")


def picture(png: Path, caption: str) -> Markup:
    """A plot to stand in the page: the SVG beside `png`, made smaller, or `png` where that is missing or large."""
    svg = png.with_suffix(".svg")
    if not svg.exists() or svg.stat().st_size > _LARGEST_SVG_BYTES:
        data = base64.b64encode(png.read_bytes()).decode()
        return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(caption, data)
    text = svg.read_text()
    text = _METADATA.sub("", text[text.index("<svg") :])
    # Names are the file's own: another plot of the page has the same.
    text = _REFERENCE.sub(rf"\1{png.parent.name}-{png.stem}-", _GROUP_ID.sub("<g>", text))
    text = _FONTS.sub("font-family: sans-serif", text)
    # A hundredth of a point is enough; tags alone, what stands between them are labels.
    text = _TAG.sub(lambda tag: _DECIMALS.sub(r"\1", tag[0]), text)
    label = Markup('<svg role="img" aria-label="{}" ').format(caption)
    return label + Markup(" ".join(text.split()).removeprefix("<svg "))  # noqa: S704  our own plots


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
    environment.filters |= {"figure": figure, "fixed": fixed, "picture": picture}
    template = environment.from_string(Path(__file__).with_name("page.html").read_text())
    return template.render(facts)
