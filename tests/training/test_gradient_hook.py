"""The communication hook in a real DDP job: two processes over gloo, on digits made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from training.experiments.gradients import classifier, digits
from training.experiments.gradients.codes import gradient_code
from training.experiments.gradients.trajectories import TrainingConfig, collect_gradients
from training.gradients import DistributedGradientCode, GradientCode, GradientCodeConfig
from training.gradients.hook import GradientHookError
from training.paper.convolutional import Mode
from training.paper.fitting import FitConfig

WORLD, STEPS, BATCH = 2, 40, 50
WATCHED = 4
"""Of the steps, under the profiler."""


class WholeCode:
    """Sends every bit of 100 numbers: the hook with it must be plain DDP."""

    length, message_bytes, start = 100, 400, torch.ones(100)

    def encode(self, source: Tensor, magnitudes: Tensor) -> Tensor:
        return source.contiguous().view(torch.uint8)

    def estimate(self, messages: Tensor, side: Tensor, magnitudes: Tensor) -> Tensor:
        return messages.contiguous().view(torch.float32)


def network() -> nn.Sequential:
    """The paper's classifier: its parameters lie in the order of `classifier.SHAPES`."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (1, 3, 3, 3):
        layers += [nn.Conv2d(channels, 3, 3, stride=2, padding=1), nn.GELU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 10))


def train(rank: int, hook: DistributedGradientCode | None, bucket_mb: float = 25) -> dict[str, Any]:
    """Parameters and losses of a few steps, and what the process group says it carried."""
    data = digits.synthetic(2 * BATCH * 10).fit.part(rank * BATCH * 10, (rank + 1) * BATCH * 10)
    ddp = DistributedDataParallel(network(), bucket_cap_mb=bucket_mb)
    if hook is not None:
        hook.register(ddp)
    optimizer = torch.optim.Adam(ddp.parameters(), lr=0.01)
    losses = []

    def take(step: int) -> None:
        part = slice(step % 10 * BATCH, (step % 10 + 1) * BATCH)
        loss = F.cross_entropy(ddp(data.images[part, None]), data.labels[part])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))

    for step in range(STEPS - WATCHED):
        take(step)
    with torch.profiler.profile() as profile:
        for step in range(STEPS - WATCHED, STEPS):
            take(step)
    carried = [event.name for event in profile.events() if event.name.startswith("gloo:")]
    parameters = torch.cat([p.detach().flatten() for p in ddp.parameters()])
    return {
        "losses": losses,
        "parameters": parameters.tolist(),
        "carried": {name: carried.count(name) for name in set(carried)},
        "traffic": vars(hook.traffic) if hook is not None else None,
    }


def learned(rank: int, folder: Path) -> dict[str, Any]:
    return train(rank, DistributedGradientCode(folder / "code.safetensors"))


def plain(rank: int, folder: Path) -> dict[str, Any]:
    return train(rank, None)


def whole(rank: int, folder: Path) -> dict[str, Any]:
    return train(rank, DistributedGradientCode(WholeCode()))


def whole_in_small_buckets(rank: int, folder: Path) -> dict[str, Any]:
    return train(rank, DistributedGradientCode(WholeCode()), bucket_mb=0.0005)


def different_codes(rank: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(rank)
    with pytest.raises(GradientHookError, match="different gradient codes"):
        train(rank, DistributedGradientCode(GradientCode(GradientCodeConfig(hidden=16))))
    return {}


JOBS: tuple[Callable[[int, Path], dict[str, Any]], ...] = (
    learned,
    plain,
    whole,
    whole_in_small_buckets,
    different_codes,
)


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=WORLD)
    found = {job.__name__: job(rank, folder) for job in JOBS}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank measured, after one launch of two processes."""
    folder = tmp_path_factory.mktemp("ddp")
    split = digits.synthetic(600, seed=1)
    gradients = collect_gradients(split.fit, [0, 1, 2], TrainingConfig(steps=40, batch_size=50))
    config = GradientCodeConfig(hidden=64, residual=32)
    fitting = FitConfig(steps=300, learning_rate=3e-3, commitment=0.15, unquantized_steps=50)
    code, _ = gradient_code(gradients, config, fitting, batch_size=32, directory=folder / "fit")
    code.save(folder / "code.safetensors", {})
    spawn(worker, (folder,), nprocs=WORLD)  # type: ignore[no-untyped-call]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("job", ["learned", "plain", "whole", "whole_in_small_buckets"])
def test_ranks_end_with_the_same_parameters_and_a_lower_loss(found: list[dict[str, Any]], job: str) -> None:
    assert found[0][job]["parameters"] == found[1][job]["parameters"]
    for rank in found:
        losses = rank[job]["losses"]
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("job", ["whole", "whole_in_small_buckets"])
def test_an_exact_code_is_plain_ddp(found: list[dict[str, Any]], job: str) -> None:
    expected = torch.tensor(found[0]["plain"]["parameters"])
    assert torch.allclose(torch.tensor(found[0][job]["parameters"]), expected, atol=2e-4)


def test_only_messages_travel_to_the_server(found: list[dict[str, Any]]) -> None:
    server, worker = (rank["learned"]["traffic"] for rank in found)
    gradient_bytes = 4 * classifier.PARAMETERS
    assert worker == {"messages_bytes": STEPS * 40, "whole_bytes": STEPS * gradient_bytes, "means_bytes": 0}
    assert server == {"messages_bytes": 0, "whole_bytes": 0, "means_bytes": STEPS * gradient_bytes}


def test_the_process_group_carries_one_gather_and_one_broadcast_a_bucket(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank["learned"]["carried"] == {"gloo:gather": WATCHED, "gloo:broadcast": WATCHED}
        assert "gloo:all_reduce" in rank["plain"]["carried"]
        assert rank["whole_in_small_buckets"]["carried"]["gloo:gather"] > WATCHED


def test_a_joint_code_is_refused() -> None:
    with pytest.raises(GradientHookError, match="joint"):
        DistributedGradientCode(GradientCode(GradientCodeConfig(hidden=16, mode=Mode.JOINT.value)))
