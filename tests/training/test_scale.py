"""Several processes, bfloat16 and compilation: each takes the steps that one plain process takes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.training.scale_worker import CONFIG, MODEL, paper_code, run_with_deaths, small_data
from training.checkpoint import Checkpoint
from training.config import TrainConfig
from training.data import TrainingData, render_drives
from training.ranks import Ranks
from training.run import Run, train
from training.train import DRIVES_SEED

SUM_ORDER = 1e-5
"""Two processes add the same float32 numbers in another order. That alone moved losses by 2e-7 of their value over
these steps; a sum, a random draw or a gather left out moves them by 1e-4 or more."""

STEPS = 12
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a network gains nothing from two, and on busy cores they wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def command(output: Path, cache: Path) -> list[str]:
    options = {
        "output": output,
        "cache": cache,
        "steps": STEPS,
        "batch-size": 2,
        "channels": 16,
        "codebooks": "16,16",
        "drives": 2,
        "unquantized-steps": 3,
        "validate-every": 4,
        "threads": 1,
    }
    return ["-m", "training.train", *(f"--{name}={value}" for name, value in options.items())]


def logged(output: Path) -> list[dict[str, float]]:
    path = output / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses_of(config: TrainConfig, compiler: str | None = None) -> list[float]:
    run = Run(MODEL, config, CPU, compiler=compiler)
    return [pending.read().loss for pending in train(run, small_data())]


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """Over the k-means start, EMA updates, and code vectors that die and are replaced."""
    worker = str(Path(__file__).with_name("scale_worker.py"))
    ranks = subprocess.run([*TORCHRUN, worker, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ranks.returncode == 0, ranks.stderr
    files = [tmp_path / f"{rank}.safetensors" for rank in (0, 1)]
    first, second = (load_file(file) for file in files)
    assert all(torch.equal(first[name], second[name]) for name in first)

    losses, replaced, run = run_with_deaths(Ranks())
    with safe_open(files[0], "pt") as file:
        assert json.loads(file.metadata()["losses"]) == pytest.approx(losses, rel=SUM_ORDER)
    for stage, vector in enumerate(replaced):
        assert vector.abs().max() < 10, "the dead vector was not replaced"
        torch.testing.assert_close(first[f"replaced.{stage}"], vector, rtol=SUM_ORDER, atol=1e-6)
    for name, value in run.model.state_dict().items():
        # A key's bias shifts all scores of a softmax alike: its gradient is rounding noise, scaled up by Adam.
        if not name.endswith("attention.key.bias"):
            torch.testing.assert_close(first[name], value, rtol=SUM_ORDER, atol=1e-6)

    # The paper's codes, through their own loop.
    files = [tmp_path / f"paper-{rank}.safetensors" for rank in (0, 1)]
    first, second = (load_file(file) for file in files)
    assert all(torch.equal(first[name], second[name]) for name in first)
    of_code, model = paper_code(Ranks())
    with safe_open(files[0], "pt") as file:
        assert json.loads(file.metadata()["losses"]) == pytest.approx(of_code, rel=SUM_ORDER)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.timeout(240)
def test_a_lost_rank_ends_all_and_the_run_resumes(tmp_path: Path) -> None:
    output, cache = tmp_path / "run", tmp_path / "cache"
    with subprocess.Popen([*TORCHRUN, *command(output, cache)], stderr=subprocess.DEVNULL) as started:
        deadline = time.monotonic() + 120
        while len(logged(output)) < 6:  # past a checkpoint (step 4)
            assert started.poll() is None, "the run ended before a rank could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        ranks = psutil.Process(started.pid).children(recursive=True)
        next(rank for rank in ranks if rank.environ().get("RANK") == "1").send_signal(signal.SIGKILL)
        assert started.wait(60) != 0
        assert not any(rank.is_running() for rank in ranks)
    assert 6 <= len(logged(output)) < STEPS

    resumed = subprocess.run(
        [*TORCHRUN, *command(output, cache)], capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("continuing") == 1, "rank 0 alone speaks"
    checkpoint = Checkpoint.load(output / "checkpoint")
    run = Run(checkpoint.model_config, checkpoint.train_config, CPU)
    data = TrainingData([], render_drives(2, seed=DRIVES_SEED, cache=cache), CPU)
    expected = [pending.read().mse for pending in train(run, data)]
    assert [entry["step"] for entry in logged(output)] == list(range(1, STEPS + 1))
    assert [entry["mse"] for entry in logged(output)] == pytest.approx(expected, rel=SUM_ORDER)
    name = "encoder.stem.weight"
    torch.testing.assert_close(checkpoint.averaged[name], run.averaged[name], rtol=SUM_ORDER, atol=1e-6)


def test_ranks_that_differ_end_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank, batch_size in enumerate((2, 4)):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        environment = os.environ | {k: str(v) for k, v in group.items()} | {"MASTER_PORT": str(port)}
        words = [*command(tmp_path / "run", tmp_path / "cache"), f"--batch-size={batch_size}"]
        processes.append(
            subprocess.Popen([sys.executable, *words], env=environment, stderr=subprocess.PIPE, text=True)
        )
    said = "".join(process.communicate(timeout=100)[1] for process in processes)
    assert [process.returncode for process in processes] == [1, 1], said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: rank 1 has batch_size 4 where rank 0 has 2: "
        "start every rank with the same options on the same files"
    ]
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_bfloat16_stays_near_float32() -> None:
    """bfloat16 keeps 8 bits: single values are off by up to 0.4 %, a mean over thousands of pixels by less."""
    config = replace(CONFIG, steps=8)
    expected = losses_of(config)
    losses = losses_of(replace(config, precision="bf16"))
    assert losses == pytest.approx(expected, rel=0.01)
    assert losses != pytest.approx(expected, rel=1e-6), "the networks did not compute in bfloat16"


# torch's own: its compiler looks at the gradient of the latents that enter the decoder.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_networks_take_the_same_steps() -> None:
    """With the graphs traced but run by torch: the C++ for all of them takes minutes."""
    config = replace(CONFIG, steps=2, unquantized_steps=0)
    torch._dynamo.reset()
    assert losses_of(config, "aot_eager") == pytest.approx(losses_of(config), rel=SUM_ORDER)
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 3, "encoder, side network and decoder"
    torch._dynamo.reset()
