"""The parts of the recipe, each a list of tallies; a finished part is kept as JSON and not done again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from training.config import JsonConfig
from training.experiments.binary import paper_code, phase_code, syndromes
from training.experiments.binary.blocks import BLOCK_BITS, MESSAGE_BITS, Failures
from training.experiments.binary.paper_code import Output, PaperCode, minus_log_likelihood
from training.experiments.binary.phase_code import LikeliestPattern, PhaseConfig
from training.experiments.binary.syndromes import Decoder
from training.paper.convolutional import Mode
from training.paper.dense import DenseConfig
from training.paper.fitting import FitConfig, fit

Progress = Callable[[int, int], None]

EPOCH: Final = 50_000
"""Pairs in the paper's epoch."""
EVALUATION_SEED: Final = 1_000_000
"""Blocks that codes are measured on are drawn from here on; training draws from seeds below."""


@dataclass(frozen=True)
class Dials(JsonConfig):
    """Everything that changes a figure."""

    ldpc_crossovers: tuple[float, ...] = (
        *(0.0006, 0.003, 0.006, 0.010, 0.0102),
        *(0.012, 0.014, 0.016, 0.018, 0.020, 0.0215, 0.025, 0.030),
    )
    ldpc_blocks: int = 20_000
    guessing_crossovers: tuple[float, ...] = (0.0006, 0.003, 0.006, 0.010, 0.0102, 0.014, 0.020)
    other_decoder_crossovers: tuple[float, ...] = (0.014, 0.018, 0.020)
    code_crossovers: tuple[float, ...] = (0.0006, 0.003, 0.006, 0.0102, 0.014, 0.020)
    code_blocks: int = 10_000
    """The paper's number; for each seed."""
    paper: DenseConfig = field(default_factory=DenseConfig)
    """Without the mode."""
    paper_crossover: float = 0.003
    epochs: float = 10.0
    batch_size: int = 128
    phase: PhaseConfig = field(default_factory=PhaseConfig)
    """Without the seed."""
    seeds: int = 5
    long_piece_bits: int = 72
    long_hidden: int = 512
    long_seeds: int = 3
    short_messages: tuple[int, ...] = (2, 3, 4, 5)
    """k of the short codes: n = 2^k − 1, where a Hamming code is the best there is."""
    short_crossover: float = 0.02
    short_steps: int = 1500
    short_seeds: int = 3


SMOKE: Final = Dials(
    ldpc_crossovers=(0.003, 0.010, 0.030),
    ldpc_blocks=100,
    guessing_crossovers=(0.003, 0.010, 0.020),
    other_decoder_crossovers=(0.020,),
    code_crossovers=(0.003, 0.0102),
    code_blocks=200,
    paper=DenseConfig(latent_dimension=8, hidden=64, residual=16, blocks=1),
    epochs=0.06,
    phase=PhaseConfig(hidden=128, steps=500, batch_size=256, encoder_rate=0.02),
    seeds=2,
    long_piece_bits=36,
    long_hidden=64,
    long_seeds=2,
    short_messages=(2, 3),
    short_steps=30,
    short_seeds=2,
)


@dataclass(frozen=True)
class Tally:
    """Block errors of one code at one p, from one seed."""

    code: str
    crossover: float
    seed: int
    failures: Failures
    wrong_message: Failures | None = None
    """Each block decoded with another block's message. None: not measured."""
    block_bits: int = BLOCK_BITS
    message_bits: int = MESSAGE_BITS

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tally:
        """Of `asdict`."""
        wrong = values["wrong_message"]
        return cls(
            **{
                **values,
                "failures": Failures(**values["failures"]),
                "wrong_message": None if wrong is None else Failures(**wrong),
            }
        )


@dataclass(frozen=True)
class Part:
    """What one part gave."""

    tallies: tuple[Tally, ...]
    seconds: float
    notes: tuple[str, ...] = ()


Make = Callable[[Dials, torch.device, Path, Progress], tuple[list[Tally], list[str]]]
"""Dials, device, the part's own folder and progress → tallies and notes."""


def kept(
    name: str, make: Make, dials: Dials, device: torch.device, work: Path, progress: Progress, settings: Any
) -> Part:
    """The part from `work`, or made and kept there. Other `settings` make it anew."""
    path = work / f"{name}.json"
    same = json.loads(json.dumps(settings))
    if path.exists():
        record = json.loads(path.read_text())
        if record["settings"] == same:
            progress(1, 1)
            tallies = tuple(Tally.from_dict(t) for t in record["tallies"])
            return Part(tallies, record["seconds"], tuple(record["notes"]))
    started = time.monotonic()
    # A folder for each setting: a part that was stopped under others must not go on here.
    digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:8]
    made, notes = make(dials, device, work / f"{name}-{digest}", progress)
    seconds = time.monotonic() - started
    work.mkdir(parents=True, exist_ok=True)
    record = {"settings": same, "seconds": seconds, "notes": notes, "tallies": [asdict(t) for t in made]}
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(record, indent=1) + "\n")
    unfinished.replace(path)
    return Part(tuple(made), seconds, tuple(notes))


def ldpc(
    dials: Dials, device: torch.device, directory: Path, progress: Progress
) -> tuple[list[Tally], list[str]]:
    """The baseline, and other decoders of the same syndromes where belief propagation begins to fail."""
    plan = [(Decoder.PRODUCT_SUM, p) for p in dials.ldpc_crossovers]
    others = (Decoder.MIN_SUM, Decoder.OSD)
    plan += [(kind, p) for kind in others for p in dials.other_decoder_crossovers]
    tallies = []
    for index, (kind, crossover) in enumerate(plan):
        failures = syndromes.measure(crossover, dials.ldpc_blocks, kind=kind, seed=EVALUATION_SEED + index)
        tallies.append(Tally(f"802.11n LDPC, {kind}", crossover, 0, failures))
        progress(index + 1, len(plan))
    return tallies, []


def ldpc_guessing(
    dials: Dials, device: torch.device, directory: Path, progress: Progress
) -> tuple[list[Tally], list[str]]:
    """The baseline without flooding's floor, on blocks of its own."""
    tallies = []
    for index, crossover in enumerate(dials.guessing_crossovers):
        at = 3 * EVALUATION_SEED + index
        failures = syndromes.measure(crossover, dials.ldpc_blocks, kind=Decoder.GUESSING, seed=at)
        tallies.append(Tally(f"802.11n LDPC, {Decoder.GUESSING}", crossover, 0, failures))
        progress(index + 1, len(dials.guessing_crossovers))
    return tallies, []


def paper(mode: Mode, output: Output) -> Make:
    """The paper's code in one mode, trained at `paper_crossover`."""
    name = f"paper, {mode}" if output is Output.MIXED else f"{output}, {mode}"
    weight = "α" if output is Output.MIXED else "β"

    def make(
        dials: Dials, device: torch.device, directory: Path, progress: Progress
    ) -> tuple[list[Tally], list[str]]:
        torch.manual_seed(0)
        model = PaperCode(replace(dials.paper, mode=mode.value), output).to(device)
        steps = round(dials.epochs * EPOCH / dials.batch_size)
        fitted = fit(
            model,
            paper_code.sampler(model.config.length, dials.batch_size, dials.paper_crossover, 0, device),
            FitConfig(steps=steps, commitment=0.15, unquantized_steps=min(50, steps // 2)),
            distortion=minus_log_likelihood,
            directory=directory,
            progress=progress,
        )
        tallies = _paper_tallies(model, name, dials.code_crossovers, dials.code_blocks, 0)
        ended = float(model.side_weight.detach())
        note = (
            f"{name}: {steps} steps of {dials.batch_size} at p = {dials.paper_crossover}, loss "
            f"{fitted.losses[-1]:.2f} nats for a block at the end, {weight} = {ended:.4f}"
        )
        return tallies, [note]

    return make


def _paper_tallies(
    model: PaperCode, name: str, crossovers: tuple[float, ...], blocks: int, seed: int
) -> list[Tally]:
    tallies = []
    for index, crossover in enumerate(crossovers):
        at = EVALUATION_SEED + 1000 * seed + index
        right, wrong = (
            paper_code.measure(model, crossover, blocks, seed=at, wrong_message=wrong)
            for wrong in (False, True)
        )
        bits = model.config.length, model.config.message_bits
        tallies.append(Tally(name, crossover, seed, right, wrong, *bits))
    return tallies


def phase(piece_bits: int, learned: bool) -> Make:
    """Phase codes for all seeds; those with a learned encoder also with the best decoder for what it sends."""

    def make(
        dials: Dials, device: torch.device, directory: Path, progress: Progress
    ) -> tuple[list[Tally], list[str]]:
        tallies, notes = [], []
        long = piece_bits != dials.phase.piece_bits
        seeds = dials.long_seeds if long else dials.seeds
        for seed in range(seeds):
            config = replace(
                dials.phase,
                piece_bits=piece_bits,
                message_bits=piece_bits * MESSAGE_BITS // BLOCK_BITS,
                hidden=dials.long_hidden if long else dials.phase.hidden,
                learned_encoder=learned,
                seed=seed,
            )
            code = phase_code.train(config, device=device, progress=_share(progress, seed, seeds))
            table = LikeliestPattern(code.parities)
            encoder = "learned" if learned else "random"
            name = f"phase {piece_bits}, {encoder} encoder"
            for index, crossover in enumerate(dials.code_crossovers):
                at = EVALUATION_SEED + 1000 * (seed + 1) + index
                right, wrong, best = (
                    phase_code.measure(code, crossover, dials.code_blocks, BLOCK_BITS, seed=at, **how)
                    for how in ({}, {"wrong_message": True}, {"table": table})
                )
                tallies.append(Tally(f"{name}, learned decoder", crossover, seed, right, wrong))
                tallies.append(Tally(f"{name}, likeliest pattern", crossover, seed, best))
            distinct = len({tuple(column) for column in code.parities.T.tolist() if any(column)})
            notes.append(f"{name}, seed {seed}: {distinct} of {piece_bits} bits have a syndrome of their own")
        return tallies, notes

    return make


def short(
    dials: Dials, device: torch.device, directory: Path, progress: Progress
) -> tuple[list[Tally], list[str]]:
    """Blocks of 2^k − 1 bits with k sent: who finds the Hamming code?"""
    tallies: list[Tally] = []
    runs = [(sent, seed) for sent in dials.short_messages for seed in range(dials.short_seeds)]
    p, blocks = dials.short_crossover, dials.code_blocks
    for done, (sent, seed) in enumerate(runs):
        bits = 2**sent - 1
        for output in Output:
            torch.manual_seed(seed)
            sizes = replace(dials.paper, length=bits, positions=sent, latent_dimension=16)
            model = PaperCode(sizes, output).to(device)
            fit(
                model,
                paper_code.sampler(bits, dials.batch_size, p, seed, device),
                FitConfig(
                    steps=dials.short_steps,
                    learning_rate=1e-3,
                    commitment=0.15,
                    unquantized_steps=min(50, dials.short_steps // 2),
                    seed=seed,
                ),
                distortion=minus_log_likelihood,
            )
            name = "paper" if output is Output.MIXED else output.value
            tallies += _paper_tallies(model, f"{name}, distributed, n = {bits}", (p,), blocks, seed)
        config = replace(
            dials.phase, piece_bits=bits, message_bits=sent, steps=dials.short_steps, crossover=p, seed=seed
        )
        code = phase_code.train(config, device=device)
        right, wrong = (
            phase_code.measure(code, p, blocks, bits, seed=EVALUATION_SEED + 1000 * seed, wrong_message=wrong)
            for wrong in (False, True)
        )
        tallies.append(Tally(f"phase, n = {bits}", p, seed, right, wrong, bits, sent))
        progress(done + 1, len(runs))
    return tallies, []


def _share(progress: Progress, index: int, count: int) -> Progress:
    return lambda done, total: progress(index * total + done, count * total)


def plan(dials: Dials) -> dict[str, tuple[Make, Any]]:
    """All parts by name, each with the settings that its figures depend on."""
    settings = dials.to_dict()

    def pick(*prefixes: str) -> dict[str, Any]:
        return {k: v for k, v in settings.items() if k.startswith(prefixes)}

    codes = pick("code_")
    networks = codes | pick("paper", "epochs", "batch_size")
    pieces = codes | pick("phase", "seeds")
    return {
        "ldpc": (ldpc, pick("ldpc", "other_decoder")),
        "ldpc-guessing": (ldpc_guessing, pick("ldpc", "guessing")),
        "joint": (paper(Mode.JOINT, Output.MIXED), networks),
        "distributed": (paper(Mode.DISTRIBUTED, Output.MIXED), networks),
        "joint-logits": (paper(Mode.JOINT, Output.LOGITS), networks),
        "distributed-logits": (paper(Mode.DISTRIBUTED, Output.LOGITS), networks),
        "phase": (phase(dials.phase.piece_bits, True), pieces),
        "random-encoder": (phase(dials.phase.piece_bits, False), pieces),
        "phase-long": (phase(dials.long_piece_bits, True), pieces | pick("long_")),
        "short": (short, codes | pick("short", "paper", "phase", "batch_size")),
    }
