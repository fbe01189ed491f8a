"""Bundles as the codec writes them, and as the specification reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.context import ContextPrior, softmax_weights
from tests.golden import spec_bundle
from tests.unit import context_prior, planes_prior
from training.prior_graph import prior_onnx

MODEL: Final = Path(__file__).parents[2] / "models" / "default"
_COARSE: Final = (
    ((1, [[1, 1], [0, 0], [0, 1], [1, 0]]), (0, [[1, 0], [0, 1], [1, 1]])),
    ((1, [[0, 0], [1, 0]]), (1, [[0, 1], [1, 1]]), (0, [[1, 1]]), (0, [[1, 0], [0, 1]])),
    ((1, [[0, 0], [0, 1], [1, 0], [1, 1]]), (0, [[0, 1], [1, 0], [1, 1]])),
)


def coarse_prior() -> ContextPrior:
    """The coarse scale in later stages too, digits split otherwise, and a weight above 0 for every logit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_prior, "_SCHEDULE", _COARSE)
        patch.setattr(context_prior, "_LOW_BITS", (0, 2, 0))
        stages, passes = context_prior.stages(1), context_prior.passes(1)
    return ContextPrior(stages, softmax_weights(1 / 64), context_prior.SHIFT, prior_onnx(passes))


@pytest.fixture(scope="session")
def written(
    tiny_bundle: Bundle,
    context_bundle: Bundle,
    tiny_parts: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Bundle]:
    """Bundles of the codec: the released one, and tiny ones of each kind of prior."""
    made = {"released": Bundle.load(MODEL), "static": tiny_bundle, "context": context_bundle}
    path = tmp_path_factory.mktemp("bundles") / "coarse"
    made["coarse"] = write_bundle(path, **(tiny_parts | {"name": "coarse", "prior": coarse_prior()}))
    planes = {"prior": planes_prior.tiny_prior(), "rate_levels": [planes_prior.PLANES] * planes_prior.LEVELS}
    path = tmp_path_factory.mktemp("bundles") / "planes"
    made["planes"] = write_bundle(path, **(tiny_parts | {"name": "planes"} | planes))
    return made


@pytest.fixture(scope="session")
def bundles(written: dict[str, Bundle]) -> dict[str, spec_bundle.Bundle]:
    """The same, as the specification reads them."""
    return {name: spec_bundle.read_bundle(bundle.path) for name, bundle in written.items()}
