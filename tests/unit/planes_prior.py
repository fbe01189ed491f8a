"""A small prior of planes with random integers, for tests: three planes of -2 to 2, three rate levels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndsc.codec.scalar_prior import GROUPS, ScalarPrior
from training.prior_graph import Layer
from training.scalar_graph import BlockLayers, GroupLayers, Steps, scalar_prior

PLANES, BOUND, LEVELS = 3, 2, 3
_HIDDEN = 8
_SCALES = (0.2, 0.5, 1.0, 2.0)
_STEPS = Steps(activation_bits=4, weight_bits=5, mean_bits=2, scale_bits=1)


def tiny_prior(seed: int = 0) -> ScalarPrior:
    """The whole prior."""
    rng = np.random.default_rng((seed, 2))

    def integers(most: int, *shape: int) -> Any:
        return rng.integers(-most, most + 1, shape).astype(np.float32)

    def layer(outputs: int, inputs: int, size: int, most: int = 20) -> Layer:
        return Layer(integers(most, outputs, inputs, size, size), integers(500, outputs))

    groups = {}
    for group in GROUPS[1:]:
        block = BlockLayers(layer(_HIDDEN, 1, 3), layer(_HIDDEN, _HIDDEN, 1), layer(_HIDDEN, _HIDDEN, 1))
        groups[group.name] = GroupLayers(
            stem=layer(_HIDDEN, len(group.known) * PLANES, 3),
            level=integers(900, LEVELS, _HIDDEN),
            blocks=[block],
            head=layer(2 * len(group.phases) * PLANES, _HIDDEN, 1, most=9),
        )
    first = [
        (
            rng.integers(-4 * BOUND, 4 * BOUND + 1, PLANES).tolist(),
            rng.integers(0, len(_SCALES), PLANES).tolist(),
        )
        for _ in range(LEVELS)
    ]
    return scalar_prior(groups, first, bound=BOUND, scales=_SCALES, steps=_STEPS)
