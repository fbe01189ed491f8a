"""Sections 2.2 and 3.2 of proto/SPEC.md: JSON of the allowed form. Everything here raises BundleError."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from tests.golden.spec_errors import BundleError


def parsed(data: bytes) -> Any:
    """JSON in UTF-8 without a byte order mark, all of whose values have a canonical form."""
    try:
        value = json.loads(data.decode(), parse_constant=_refuse)
        canonical(value)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"not JSON in UTF-8: {error}") from error
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def canonical(value: Any) -> bytes:
    """The one spelling that ids are made from."""
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    except ValueError as error:
        raise BundleError(f"a value that has no canonical form: {error}") from error


def keyed(value: Any, keys: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """An object of these keys and no others."""
    if type(value) is not dict or not set(keys) <= value.keys() <= {*keys, *optional}:
        raise BundleError(f"not an object of the keys {sorted(keys)}")
    return value


def items(value: Any, fewest: int, most: int) -> list[Any]:
    """A list of so many items."""
    if type(value) is not list or not fewest <= len(value) <= most:
        raise BundleError(f"not a list of {fewest} to {most} items")
    return value


def integer(value: Any, least: int, most: int) -> int:
    """An integer, written as one."""
    if type(value) is not int or not least <= value <= most:
        raise BundleError(f"not an integer of {least} to {most}")
    return value


def integers(value: Any, fewest: int, most: int, least: int, largest: int) -> tuple[int, ...]:
    """A list of `fewest` to `most` integers of `least` to `largest`."""
    return tuple(integer(item, least, largest) for item in items(value, fewest, most))


def text(value: Any, pattern: str) -> str:
    """A string that the pattern matches as a whole."""
    if type(value) is not str or not re.fullmatch(pattern, value):
        raise BundleError(f"not text of the form {pattern}")
    return value
