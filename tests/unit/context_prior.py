"""A small context prior of random integers, for tests: three stages with codebooks of 16, 8 and 3 vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndsc.codec.context import ContextPrior, pass_name, softmax_weights
from ndsc.codec.schedule import BANDS, Group, Stage
from training.prior_graph import Layer, PassWeights, Target, prior_onnx

CODEBOOK_SIZES = (16, 8, 3)
SHIFT = 5
_EMBEDDING, _CHANNELS = 4, 8
_LOW_BITS = (2, 1, 0)
_SCHEDULE: tuple[tuple[tuple[int, list[list[int]]], ...], ...] = (
    (
        (1, [[0, 0]]),
        (1, [[1, 1]]),
        (1, [[0, 1], [1, 0]]),
        (0, [[1, 1]]),
        (0, [[0, 1], [1, 0]]),
    ),
    ((0, [[0, 0], [1, 1]]), (0, [[1, 0], [0, 1]])),
    ((0, [[0, 0], [0, 1], [1, 0], [1, 1]]),),
)


def stages(seed: int = 0) -> list[Stage]:
    """The coding order; labels are a random permutation of the indices."""
    rng = np.random.default_rng(seed)
    made = []
    for s, (size, bits, groups) in enumerate(zip(CODEBOOK_SIZES, _LOW_BITS, _SCHEDULE, strict=True)):
        logits = (size >> bits) + (size if bits else 0)
        table = rng.integers(-30, 30, (BANDS, logits)).tolist()
        made.append(
            Stage(
                codebook_size=size,
                low_bits=bits,
                order=rng.permutation(size).tolist(),
                groups=[
                    Group(scale=scale, phases=phases, table=table if (s, g) == (0, 0) else None)
                    for g, (scale, phases) in enumerate(groups)
                ],
            )
        )
    return made


def passes(seed: int = 0) -> dict[str, PassWeights]:
    """Random integers for each pass's network."""
    rng = np.random.default_rng((seed, 1))

    def integers(most: int, *shape: int) -> Any:
        return rng.integers(-most, most + 1, shape).astype(np.float32)

    def table(size: int) -> Any:
        return np.concatenate([integers(60, size, _EMBEDDING), np.zeros((1, _EMBEDDING), np.float32)])

    made = {}
    for s, stage in enumerate(stages(seed)):
        for g, group in enumerate(stage.groups):
            if group.table is not None:
                continue
            known = len(stage.known(g))
            around = [
                integers(9, _CHANNELS, known * _EMBEDDING, 3, 3) if known else None for _ in group.phases
            ]
            made[pass_name(s, g)] = PassWeights(
                own=table(stage.codebook_size) if known else None,
                earlier=[table(size) for size in CODEBOOK_SIZES[:s]],
                before=integers(9, _CHANNELS, _EMBEDDING, 5, 5) if s else None,
                targets=[
                    Target((phase[0], phase[1]), kernel, integers(900, BANDS, _CHANNELS))
                    for phase, kernel in zip(group.phases, around, strict=True)
                ],
                blocks=[
                    (
                        Layer(integers(20, _CHANNELS, _CHANNELS, 1, 1), integers(500, _CHANNELS)),
                        Layer(integers(20, _CHANNELS, _CHANNELS, 1, 1), integers(500, _CHANNELS)),
                    )
                ],
                head=Layer(integers(20, stage.logits, _CHANNELS, 1, 1), integers(500, stage.logits)),
                weight_bits=SHIFT,
            )
    return made


def tiny_prior(seed: int = 0) -> ContextPrior:
    """The whole prior."""
    return ContextPrior(stages(seed), softmax_weights(1 / 16), SHIFT, prior_onnx(passes(seed)))
