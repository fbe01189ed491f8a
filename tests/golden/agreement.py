"""What both readers say of the same data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from ndsc.codec.context import ContextPrior, softmax_weights
from ndsc.codec.errors import NdscError
from tests.golden import spec_bundle, spec_decoder
from tests.golden.spec_errors import SpecError
from tests.golden.spec_network import Network
from tests.unit.context_prior import SHIFT, stages

NETWORKED: Final = ("released", "context", "coarse", "planes")
"""Bundles whose prior has networks."""


def refusal(read: Callable[..., object], *arguments: Any) -> str:
    """The kind of error that `read` gives, in either reader's classes; empty where it gives none."""
    try:
        read(*arguments)
    except (SpecError, NdscError) as error:
        return type(error).__name__
    return ""


def codec_uses(data: bytes, side: int = 4) -> bytes:
    """A grid of zeros, coded by the codec with this prior.onnx in the tiny context prior."""
    prior = ContextPrior(stages(), softmax_weights(1 / 16), SHIFT, data)
    return prior.encode(np.zeros((3, side, side), np.int32))


def network_of(bundle: spec_bundle.Bundle) -> Network:
    """The prior's networks, as the specification's reader has them."""
    assert not isinstance(bundle.prior, spec_bundle.StaticPrior)
    return bundle.prior.network


def sums_of(data: bytes, bundle: spec_bundle.Bundle) -> list[Any]:
    """Logits of every network on a grid of 4 × 4, all labels 0, by the specification's reader."""
    assert isinstance(bundle.prior, spec_bundle.ContextPrior)
    prior = dataclasses.replace(bundle.prior, network=Network(data, bundle.prior.network.groups))
    labels = spec_decoder.Labels(prior.codebook_sizes, 4, 4)
    labels.known = {(s, y, x): 0 for s in range(3) for y in range(4) for x in range(4)}
    return [
        spec_decoder.logits(prior, s, g, labels).tolist()
        for s, stage in enumerate(prior.stages)
        for g in range(len(stage.groups))
    ]
