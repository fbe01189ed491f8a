"""One rate of a codec of many: the same frames at that level, from the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.checkpoint import Checkpoint
from training.experiments.codec.variants import SMOKE, variants
from training.experiments.one_rate.__main__ import _finished
from training.experiments.one_rate.level import only_level
from training.experiments.recipe import RecipeError
from training.run import Run
from training.scalar_codec import ScalarCodec, distortion_weights

LEVEL = 1


@pytest.fixture(scope="module")
def many() -> Checkpoint:
    """Untrained, but no level like another."""
    variant = variants(SMOKE, synthetic=True)[0]
    made = Run(variant.model, variant.train, torch.device("cpu")).checkpoint()
    torch.manual_seed(3)
    averaged = {
        name: value + 0.02 * torch.randn_like(value) if value.is_floating_point() else value
        for name, value in made.averaged.items()
    }
    return replace(made, averaged=averaged)


def test_one_level_codes_as_it_did_among_many(many: Checkpoint) -> None:
    one = only_level(many, LEVEL)
    codecs = [checkpoint.averaged_model() for checkpoint in (many, one)]
    assert [codec.config.levels for codec in codecs] == [SMOKE.levels, 1]
    torch.manual_seed(5)
    frame, side = torch.rand(2, 1, 3, 64, 96)
    with torch.no_grad():
        results = [
            codec(frame, side, torch.ones(1), torch.tensor([level]))
            for codec, level in zip(codecs, (LEVEL, 0), strict=True)
        ]
        other = codecs[0](frame, side, torch.ones(1), torch.tensor([LEVEL + 1]))
    assert torch.equal(results[0].frame, results[1].frame)
    assert torch.equal(results[0].bits, results[1].bits)
    assert not torch.equal(results[0].frame, other.frame)


def test_its_lambda_is_that_level_s(many: Checkpoint) -> None:
    weights = distortion_weights(many.train_config, many.model_config.levels)
    assert distortion_weights(only_level(many, LEVEL).train_config, 1).item() == weights[LEVEL].item()


def test_of_a_finished_codec_training_starts_as_before_it_was_finished(many: Checkpoint) -> None:
    averaged = {name: value + 1 for name, value in many.averaged.items()}
    facts = {**many.facts, "finish_steps": 1}
    finished = replace(many, model=many.averaged, averaged=averaged, facts=facts)
    one, before = only_level(finished, LEVEL), only_level(many, LEVEL)
    run = Run(one.model_config, one.train_config, torch.device("cpu"))
    run.start_from(one)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before.averaged[name])


def test_a_codec_that_is_not_finished_is_refused(many: Checkpoint, tmp_path: Path) -> None:
    many.save(tmp_path / "many")
    with pytest.raises(RecipeError, match="so finish it first"):
        _finished(tmp_path / "many")
    replace(many, optimizer={}, facts={**many.facts, "finish_steps": 1}).save(tmp_path / "finished")
    assert _finished(tmp_path / "finished").finished
    with pytest.raises(RecipeError, match="give --start"):
        _finished(None)


def test_its_prior_can_code(many: Checkpoint) -> None:
    codec = only_level(many, LEVEL).averaged_model()
    assert isinstance(codec, ScalarCodec)
    indices = torch.zeros(codec.config.latent_dimension, 8, 12, dtype=torch.int32).numpy()
    prior = codec.rate_model.prior()
    coded = prior.encode(indices, 0)
    assert (prior.decode(coded, len(indices), 8, 12, 0) == indices).all()


def test_a_level_or_a_lambda_that_is_not_there_is_refused(many: Checkpoint) -> None:
    with pytest.raises(RecipeError, match="--level 3: the codec has levels 0 to 2"):
        only_level(many, 3)
    codebooks = replace(many, model_config=replace(many.model_config, quantizer="residual_vq"))
    with pytest.raises(RecipeError, match="no λ for each rate"):
        only_level(codebooks, LEVEL)
