"""Training one variant, and the latent prior that its indices are paid with."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ndsc.codec.frames import Frame, pad, to_float
from ndsc.codec.prior import LatentPrior
from training import prior as context
from training.checkpoint import Checkpoint, CheckpointError, digest
from training.data import Pair, TrainingData, fingerprint
from training.experiments.codec.variants import Dials, Variant
from training.experiments.recipe import Advance
from training.export import EncoderGraph
from training.finish import finish
from training.indices import IndexGrids, views
from training.model import ConditionalVQVAE
from training.prior_network import PriorConfig
from training.run import Run, train
from training.scalar_codec import Codec, ScalarCodec

SAVE_EVERY = 250
"""Steps."""


@dataclass(frozen=True)
class Trained:
    """A codec that is ready to code: a prior of its codebooks learned, or its rate model fitted, afterwards."""

    model: Codec
    """On the CPU, in evaluation mode, averaged weights."""
    prior: LatentPrior
    seconds: float
    """Of training the codec, over all sessions of a resumed run."""


def train_variant(
    variant: Variant,
    seed: int,
    dials: Dials,
    pairs: Sequence[Pair],
    folder: Path,
    advance: Advance,
    *,
    device: torch.device,
    start: Checkpoint | None = None,
) -> Trained:
    """Train a variant; goes on with an unfinished run in `folder`, and takes a finished one as it is.

    A new run begins with the averaged weights of `start`.

    Raises CheckpointError when `folder` holds a run of other settings or data, or from another `start`.
    """
    of_drive = variant.train.synthetic_share > 0
    data = TrainingData([] if of_drive else pairs, pairs if of_drive else [], device)
    run = Run(variant.model, replace(variant.train, seed=seed), device)
    run.facts["data"] = fingerprint(pairs)
    run.facts["start"] = digest(start.as_trained().averaged) if start else None
    latest = folder / "checkpoint"
    if latest.exists() or latest.with_name("checkpoint.old").exists():
        begun = Checkpoint.load(latest)
        if begun.facts.get("start") != run.facts["start"]:
            raise CheckpointError(f"{folder}: a run that started from other weights; give another --output")
        run.restore(begun)
    elif start:
        run.start_from(start)
    started = time.perf_counter()
    for pending in train(run, data):
        advance(pending.step, variant.train.steps)
        if pending.step % SAVE_EVERY == 0 or pending.step == variant.train.steps:
            pending.read()
            run.facts["seconds"] += time.perf_counter() - started
            started = time.perf_counter()
            run.checkpoint().save(latest)
    finished = run.checkpoint()
    model = finished.averaged_model()
    if isinstance(model, ConditionalVQVAE):
        prior = _learned_afterwards(model, seed, dials, pairs, folder / "prior")
        return Trained(model, prior, run.facts["seconds"])
    model = _finished(finished, data, dials, folder / "finished").averaged_model()
    assert isinstance(model, ScalarCodec)
    return Trained(model, model.rate_model.prior(), run.facts["seconds"])


def _finished(trained: Checkpoint, data: TrainingData, dials: Dials, folder: Path) -> Checkpoint:
    """With the rate model fitted to rounded indices, twice in half as many steps as a prior learns afterwards."""
    steps = max(1, dials.prior_steps // 2)
    if folder.exists():
        kept = Checkpoint.load(folder)
        known = (kept.facts.get("finished_from"), kept.facts.get("finish_steps"))
        if known == (digest(trained.averaged)[:16], steps):
            return kept
    finished = finish(trained, data, steps, device=data.device)
    finished.save(folder)
    return finished


def _learned_afterwards(
    model: ConditionalVQVAE, seed: int, dials: Dials, pairs: Sequence[Pair], folder: Path
) -> LatentPrior:
    """The context prior of residual stages, on the indices of the training pairs."""
    config = PriorConfig(
        codebook_sizes=model.config.codebook_sizes,
        steps=dials.prior_steps,
        seed=seed,
        validation_samples=8,
    )
    made_with = {"codec": digest(model.state_dict()), "views": dials.protocol_views, **config.to_dict()}
    marker = folder / "made_with.json"
    if not marker.exists() or json.loads(marker.read_text()) != made_with:
        marker.unlink(missing_ok=True)
        frames = [view for pair in pairs for view in (pair.left, pair.right)]
        grids = IndexGrids(tuple(_grids(model, frames, dials.protocol_views, seed)))
        context.train(grids, grids, config, folder)
        marker.write_text(json.dumps(made_with))
    network, order = context.load(folder)
    return network.export(order)


@torch.no_grad()
def _grids(
    model: ConditionalVQVAE, frames: Sequence[Frame], protocol_views: int, seed: int
) -> Iterator[NDArray[np.uint16]]:
    encoder = EncoderGraph(model)
    for number, frame in enumerate(frames):
        for view in views(frame, protocol_views, np.random.default_rng((seed, number))):
            x = torch.from_numpy(to_float(pad(np.ascontiguousarray(view), model.config.stride)))[None]
            yield encoder(x)[0].numpy().astype(np.uint16)
