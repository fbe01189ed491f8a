"""A checkpoint of many rates as one of a single rate."""

from __future__ import annotations

from dataclasses import replace

from training.checkpoint import Checkpoint
from training.config import TrainConfig
from training.experiments.recipe import RecipeError
from training.scalar_codec import build, distortion_weights


def only_level(checkpoint: Checkpoint, level: int) -> Checkpoint:
    """The weights of a scalar codec, of all that it has for each level only that of `level`.

    The codec that comes out codes as the one before at that level, and its λ is that level's.

    Raises RecipeError for a codec without a λ for each level, and for a level that it does not have.
    """
    config = checkpoint.model_config
    if config.quantizer != "scalar":
        raise RecipeError("the codec to start from has no λ for each rate: give one of --quantizer scalar")
    if not 0 <= level < config.levels:
        raise RecipeError(f"--level {level}: the codec has levels 0 to {config.levels - 1}")
    single = replace(config, scalar=replace(config.scalar, levels=1))
    shapes = {name: value.shape for name, value in build(single).state_dict().items()}
    # Whatever is of another shape there has a row for each level.
    averaged, model = (
        {
            name: value if value.shape == shapes[name] else value[level : level + 1].clone()
            for name, value in weights.items()
        }
        for weights in (checkpoint.averaged, checkpoint.model)
    )
    return Checkpoint(
        single,
        of_level(checkpoint.train_config, config.levels, level),
        checkpoint.step,
        model,
        averaged,
        {},
        checkpoint.facts,
    )


def of_level(config: TrainConfig, levels: int, level: int) -> TrainConfig:
    """The settings with the λ of one of `levels` alone."""
    weight = distortion_weights(config, levels)[level].item()
    return replace(config, lowest_lambda=weight, highest_lambda=weight)
