"""Planes that a codec does not use, made anew: `python -m training.revive CHECKPOINT --pairs DIR -o START`.

A plane of the scalar quantizer that is zero nearly everywhere at the highest level says next to nothing there,
gets next to no gradient, and still costs bits at every level. Here it becomes another view of the encoder's
features: the direction of largest variance that the used planes leave unexplained. The decoder's weights for it
start at 0, so only what the old plane said is missing, and training with `--start` decides what the new one is
worth. Whether it stays in use depends on λ: begin with λs some times as large as those wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from ndsc.codec.errors import NdscError
from ndsc.codec.frames import read_image, to_float
from ndsc.evaluate.pairs import list_pairs
from training.checkpoint import Checkpoint, CheckpointError
from training.data import Frame
from training.scalar_codec import ScalarCodec

LEAST_SHARE = 0.05
"""Planes that differ from zero at fewer positions, at the highest level, are made anew."""
FRAMES = 24
"""Left frames that show what is used, evenly spaced over all pairs; one of KITTI has 7,000 positions."""
LEAST_VARIANCE = 1e-6
"""Unexplained, against the mean of the encoder's features: a direction with less is no new plane."""


@torch.no_grad()
def plane_shares(codec: ScalarCodec, frames: Sequence[Tensor], level: int) -> Tensor:
    """Share of the positions of `frames` [1, 3, H, W] where a plane's index is not zero, float32 [C]."""
    at = torch.tensor([level])
    shares = [
        (codec.quantizer(codec.encoder(frame), at).indices[0] != 0).float().mean((1, 2)) for frame in frames
    ]
    return torch.stack(shares).mean(0)


@torch.no_grad()
def _moments(codec: ScalarCodec, frames: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [F] and covariance [F, F] of what the encoder's head sees, float64, over all positions."""
    columns = [codec.encoder.body(codec.encoder.stem(frame))[0].flatten(1).double() for frame in frames]
    positions = sum(features.shape[1] for features in columns)
    mean = torch.stack([features.sum(1) for features in columns]).sum(0) / positions
    covariance = sum(
        ((features - mean[:, None]) @ (features - mean[:, None]).T for features in columns),
        mean.new_zeros(()),
    )
    return mean, covariance / positions


def unexplained_directions(covariance: Tensor, rows: Tensor, count: int) -> Tensor:
    """The `count` directions [count, F] of largest variance of features with `covariance` [F, F] that the linear
    views `rows` [R, F] of them leave unexplained: eigenvectors of the conditional covariance, of unit length.

    Raises CheckpointError when so many directions are not left.
    """
    seen = rows @ covariance
    residual = covariance - seen.T @ torch.linalg.pinv(seen @ rows.T, hermitian=True) @ seen
    variances, directions = torch.linalg.eigh(residual)
    left = int((variances > LEAST_VARIANCE * covariance.diagonal().mean()).sum())
    if left < count:
        raise CheckpointError(
            f"{count} planes are to be made anew, and the used ones leave {left} directions of the encoder's "
            f"{len(covariance)} features: it is too narrow for so many"
        )
    largest: Tensor = directions.flip(1)[:, :count]
    return largest.T


def revive(
    checkpoint: Checkpoint, frames: Sequence[Frame], least_share: float = LEAST_SHARE
) -> tuple[Checkpoint, list[int]]:
    """A checkpoint to start from, and the planes that were made anew in it, seen on `frames` uint8 [H, W, 3].

    A new plane has unit deviation at the highest level, and from level to level the used planes' mean ratio. The
    fact `made_anew` names them. A finished codec is taken as it was before. Raises CheckpointError when
    the codec has no planes, uses all or none of them, or has no features left for new ones.
    """
    checkpoint = checkpoint.as_trained()
    codec = checkpoint.averaged_model()
    if not isinstance(codec, ScalarCodec):
        raise CheckpointError(
            "a codec of codebooks has no planes to make anew: give one of --quantizer scalar"
        )
    stride, highest = checkpoint.model_config.stride, checkpoint.model_config.levels - 1
    seen = []
    for frame in frames:
        height, width = (side // stride * stride for side in frame.shape[:2])
        seen.append(torch.from_numpy(to_float(frame[:height, :width]))[None])
    shares = plane_shares(codec, seen, highest)
    unused, used = (torch.nonzero(chosen)[:, 0] for chosen in (shares < least_share, shares >= least_share))
    if not len(unused):
        raise CheckpointError(
            f"all {len(shares)} planes differ from zero at {least_share:.0%} of the positions"
        )
    if not len(used):
        raise CheckpointError(
            f"no plane differs from zero at {least_share:.0%} of the positions: train longer, or with larger λs"
        )
    with torch.no_grad():
        mean, covariance = _moments(codec, seen)
        head, quantizer = codec.encoder.head, codec.quantizer
        assert head.bias is not None
        old = head.weight[used].double()
        rows = unexplained_directions(covariance, old, len(unused)) * old.norm(dim=1).mean()
        head.weight[unused] = rows.float()
        head.bias[unused] = -(rows @ mean).float()
        deviation = ((rows @ covariance) * rows).sum(1).sqrt().float()
        of_level = quantizer.log_gain[:, used].mean(1)
        quantizer.log_gain[:, unused] = (of_level - of_level[highest])[:, None] - deviation.log()[None]
        quantizer.log_step[:, unused] = 0
        codec.decoder.stem.weight[:, unused] = 0
        codec.rate_model.forget(unused)
    weights = {name: value.detach().clone() for name, value in codec.state_dict().items()}
    facts = {**checkpoint.facts, "validation": [], "made_anew": unused.tolist()}
    started = replace(checkpoint, model=weights, averaged=weights, optimizer={}, facts=facts)
    return started, unused.tolist()


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Of a codec trained with --quantizer scalar.")],
    pairs: Annotated[list[Path], typer.Option(help="Directory with left/ and right/; may repeat.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint for --start of training.train.")],
    least_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Planes are kept that differ from zero at such a share or more."),
    ] = LEAST_SHARE,
) -> None:
    """Make anew the planes that a codec does not use."""
    if output.exists():
        raise CheckpointError(f"{output} exists: give another -o")
    started = Checkpoint.load(checkpoint)
    entries = [entry for directory in pairs for entry in list_pairs(directory)]
    chosen = {round(place) for place in np.linspace(0, len(entries) - 1, FRAMES)} if entries else set()
    frames = [read_image(entries[number].left) for number in sorted(chosen)]
    revived, planes = revive(started, frames, least_share)
    revived.save(output)
    print(f"{output}: {len(planes)} of {revived.model_config.stages} planes made anew: {planes}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (NdscError, OSError) as error:
        sys.exit(f"error: {error}")
