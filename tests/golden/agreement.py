"""What both readers say of the same data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ndsc.codec.errors import NdscError
from tests.golden.spec_errors import SpecError


def refusal(read: Callable[..., object], *arguments: Any) -> str:
    """The kind of error that `read` gives, in either reader's classes; empty where it gives none."""
    try:
        read(*arguments)
    except (SpecError, NdscError) as error:
        return type(error).__name__
    return ""
