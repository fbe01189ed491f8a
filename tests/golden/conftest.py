"""Bundles as the codec writes them, and as the specification reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from ndsc.codec.bundle import Bundle, write_bundle
from tests.golden import spec_bundle
from tests.unit.context_prior import tiny_prior

MODEL: Final = Path(__file__).parents[2] / "models" / "default"


@pytest.fixture(scope="session")
def written(
    tiny_bundle: Bundle, tiny_parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    """Bundles of the codec: the released one, and a tiny one of each kind of prior."""
    path = tmp_path_factory.mktemp("context") / "tiny"
    context = write_bundle(path, **(tiny_parts | {"name": "context", "prior": tiny_prior()}))
    return {"released": Bundle.load(MODEL), "static": tiny_bundle, "context": context}


@pytest.fixture(scope="session")
def bundles(written: dict[str, Bundle]) -> dict[str, spec_bundle.Bundle]:
    """The same, as the specification reads them."""
    return {name: spec_bundle.read_bundle(bundle.path) for name, bundle in written.items()}
