"""What is counted and timed: systems as published and this project's bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.utils
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.context import ContextPrior, pass_name
from ndsc.codec.runtime import RuntimeOptions
from ndsc.codec.scalar_prior import GROUPS, ScalarPrior
from ndsc.codec.schedule import Planes
from ndsc.scene import SceneConfig, StereoScene
from training.experiments.cost.architectures import HEIGHT, WIDTH, Part, ReferencePrior, System
from training.experiments.cost.counting import Count, count_module, count_onnx, count_parameters
from training.experiments.recipe import RecipeError


@dataclass(frozen=True)
class Network:
    """One network: what it costs on paper, and a call that runs it on one frame."""

    count: Count
    call: Callable[[], object]


@dataclass(frozen=True)
class Codec:
    """One codec, ready to be timed."""

    name: str
    encoder: Network
    decoder: Network
    prior: Network
    prior_steps: int
    total_parameters: int
    """Of all that coding and decoding x needs, what parts share counted once."""
    training_only_parameters: int
    decode_indices: Callable[[], object] | None = None
    """All of the prior's steps one after the other, as a decoder must take them."""


@dataclass(frozen=True)
class Times:
    """Of one network on one frame."""

    median_ms: float
    spread_ms: float
    """Interquartile range."""
    runs: int


def measure(call: Callable[[], object], runs: int, at_least_s: float = 0.0) -> Times:
    """`runs` timed calls, and more until they took `at_least_s`, after one that is not timed."""
    call()
    times_ms: list[float] = []
    while len(times_ms) < runs or sum(times_ms) < 1000 * at_least_s:
        started = time.perf_counter()
        call()
        times_ms.append(1000 * (time.perf_counter() - started))
    low, median, high = np.percentile(times_ms, (25, 50, 75))
    return Times(float(median), float(high - low), len(times_ms))


def _network(part: Part) -> Network:
    module = part.module.eval()

    def call() -> Tensor:
        with torch.inference_mode():
            made: Tensor = module(*part.inputs)
        return made

    return Network(count_module(module, *part.inputs), call)


def prepared(system: System) -> Codec:
    """A system made of torch modules."""
    # The fused inference path of torch's transformer hides its products from the counter.
    torch.backends.mha.set_fastpath_enabled(False)
    encoder, decoder, prior = (_network(part) for part in (system.encoder, system.decoder, system.prior))
    parts = (system.encoder, system.decoder, system.prior)
    decode: Callable[[], object] | None = None
    if isinstance(system.prior.module, ReferencePrior):
        decode = _one_by_one(system.prior.module, system.prior_steps)
    return Codec(
        system.name,
        encoder,
        decoder,
        prior,
        system.prior_steps,
        count_parameters(part.module for part in parts),
        count_parameters(system.training_only),
        decode,
    )


def _one_by_one(prior: ReferencePrior, steps: int) -> Callable[[], object]:
    def decode() -> Tensor:
        indices = torch.zeros(1, 1, dtype=torch.int64)
        with torch.inference_mode():
            for _ in range(steps):
                following = prior(indices)[:, -1:].argmax(2)
                indices = torch.cat([indices, following], 1)
        return indices

    return decode


def bundle_codecs(path: Path) -> list[Codec]:
    """The lowest and the highest rate level of a bundle, in onnxruntime; its prior's times are with range coding.

    Raises RecipeError when its prior has no networks.
    """
    bundle = Bundle.load(path)
    prior = bundle.prior
    if not isinstance(prior, ContextPrior | ScalarPrior):
        raise RecipeError(f"{path}: its prior has no networks to count; give a bundle that has prior.onnx")
    source, side = StereoScene(SceneConfig(seed=3, width=WIDTH, height=HEIGHT)).pair(1.5)
    options = RuntimeOptions(threads=1)
    encoder, decoder = FrameEncoder(bundle, options), FrameDecoder(bundle, options)
    frame = np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
    codecs = []
    for level in sorted({0, bundle.rate_level_count - 1}):
        stages = bundle.stages_sent(level)
        indices = encoder.analyze(source, level)
        encoder_feeds: dict[str, NDArray[Any]] = {"frame": frame}
        if prior.rate_levels is not None:
            encoder_feeds["rate_level"] = np.array([level], np.int64)
        encoder_count = count_onnx(onnx.load_from_string(bundle.encoder_onnx), encoder_feeds)
        decoder_feeds: dict[str, NDArray[Any]] = {
            "indices": indices.stages[None].astype(np.int32),
            "rate_level": np.array([level], np.int64),
            "side_information": frame,
            "side_present": np.ones(1, np.float32),
        }
        decoder_count = count_onnx(onnx.load_from_string(bundle.decoder_onnx), decoder_feeds)
        prior_count = _count_prior(prior, indices.stages[:stages])
        packed = encoder.pack(indices, level)
        unpacked = decoder.unpack(packed)
        codecs.append(
            Codec(
                f"models/{bundle.name}, level {level}",
                Network(encoder_count, partial(encoder.analyze, source, level)),
                Network(decoder_count, partial(decoder.decode_batch, [unpacked], [side])),
                Network(prior_count, partial(encoder.pack, indices, level)),
                len(prior.passes(stages)),
                encoder_count.parameters + decoder_count.parameters + prior_count.parameters,
                0,
                partial(decoder.unpack, packed),
            )
        )
    return codecs


def _count_prior(prior: ContextPrior | ScalarPrior, indices: NDArray[np.int32]) -> Count:
    """All passes for the stages sent. Constants that passes share count once."""
    if isinstance(prior, ContextPrior):
        return _count_context(prior, indices)
    height, width = indices.shape[1:]
    feeds = {}
    for group in GROUPS[1:]:
        cells = -(-height // group.side), -(-width // group.side)
        feeds[f"{group.name}.known"] = np.zeros((1, len(group.known) * prior.planes, *cells), np.int32)
        feeds[f"{group.name}.level"] = np.zeros(1, np.int32)
    return count_onnx(onnx.load_from_string(prior.network), feeds)


def _count_context(prior: ContextPrior, indices: NDArray[np.int32]) -> Count:
    planes = Planes(indices, prior.codebook_sizes, known=True)
    feeds, sums = {}, []
    for s, stage in enumerate(prior.stages[: len(indices)]):
        for g, group in enumerate(stage.groups):
            if group.table is not None:
                continue
            name, (rows, columns), known = pass_name(s, g), planes.cells(group.scale), stage.known(g)
            feeds[f"{name}.band"] = np.zeros((1, rows), np.int32)
            if known:
                feeds[f"{name}.known"] = np.zeros((1, len(known), rows, columns), np.int32)
            for t in range(s):
                feeds[f"{name}.earlier{t}"] = np.zeros((1, 2 * rows, 2 * columns), np.int32)
            sums.append(f"{name}.sums")
    whole = onnx.load_from_string(prior.files()["prior.onnx"])
    return count_onnx(onnx.utils.Extractor(whole).extract_model(list(feeds), sums), feeds)
