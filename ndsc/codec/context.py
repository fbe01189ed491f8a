"""The context prior: what is known of the grid predicts the rest, in integers, in a fixed number of passes.

    indices known so far → prior.onnx (exact integers) → logits → frequencies → range coder
            ↑                                                                     │
            └──────────────── the group's indices ←───────────────────────────────┘

The positions of each residual stage are coded in groups, and a group at once: by one run of a network, or by a
table where there is nothing to see yet. `proto/SPEC.md` is the normative text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from ndsc.codec import entropy, exact, onnx_graph, shapes
from ndsc.codec.errors import BundleError, PayloadCorruptError, first_problem, printable
from ndsc.codec.prior import FREQUENCY_BITS, FREQUENCY_TOTAL, MAX_STAGES, check_json_length, code_bits
from ndsc.codec.runtime import PriorSession
from ndsc.codec.schedule import BANDS, Grid, Group, Planes, Stage, StrictModel, places

MAX_PASSES: Final = 8
MAX_NETWORK_BYTES: Final = 8 << 20
_SIZES_KNOWN: Final = 1024
WEIGHTS: Final = 256
"""Entries of the table that stands for exp(-x); a logit further below the largest counts as the last."""

Frequencies = NDArray[np.float64]
"""Whole numbers of at least 1, [n, k], each row's sum 2**16."""


class _PriorFile(StrictModel):
    kind: Literal["context"]
    frequency_bits: Annotated[int, Field(ge=16, le=16)]
    network_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    weights: Annotated[
        list[Annotated[int, Field(ge=0, le=FREQUENCY_TOTAL)]], Field(min_length=WEIGHTS, max_length=WEIGHTS)
    ]
    logit_shift: Annotated[int, Field(ge=0, le=8)]
    """Fractional bits of the network's sums."""
    stages: Annotated[list[Stage], Field(min_length=1, max_length=MAX_STAGES)]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.weights[0] != FREQUENCY_TOTAL or sorted(self.weights, reverse=True) != self.weights:
            raise ValueError(f"weights must fall from {FREQUENCY_TOTAL}")
        passes = sum(group.table is None for stage in self.stages for group in stage.groups)
        if passes > MAX_PASSES:
            raise ValueError(f"{passes} network passes where at most {MAX_PASSES} are allowed")
        return self


def pass_name(stage: int, group: int) -> str:
    """What a group's inputs and output in prior.onnx start with."""
    return f"s{stage}g{group}"


def softmax_weights(logit_step: float) -> list[int]:
    """The weights table for logits in steps of `logit_step` nats: ⌊2**16 · exp(-i · step) + 1/2⌋."""
    return [int(np.floor(FREQUENCY_TOTAL * np.exp(-i * logit_step) + 0.5)) for i in range(WEIGHTS)]


@dataclass(frozen=True, eq=False)
class _Pass:
    """One group, with what coding asks of it again and again."""

    name: str
    stage: int
    group: Group
    scale: int
    order: tuple[tuple[int, int], ...]
    """Phases in coding order."""
    known: list[tuple[int, int]]
    low_bits: int
    high_size: int
    low_size: int
    logits: int
    table: NDArray[np.float32] | None
    """[bands, logits] at the scale of a network's sums, so that both are rounded alike; None for a network."""
    inputs: Mapping[str, int]
    """Inputs of the network and how many values each can have."""

    def shape(self, rows: int, columns: int) -> shapes.Shape:
        """Of the sums for a grid of so many cells."""
        return len(self.order), self.logits, rows, columns


def _plan(stages: Sequence[Stage], logit_shift: int) -> list[list[_Pass]]:
    plan = []
    for s, stage in enumerate(stages):
        passes = []
        for g, group in enumerate(stage.groups):
            name, known = pass_name(s, g), stage.known(g)
            inputs = {f"{name}.band": BANDS}
            if known:
                inputs[f"{name}.known"] = stage.codebook_size + 1
            inputs |= {f"{name}.earlier{t}": stages[t].codebook_size + 1 for t in range(s)}
            table = None
            if group.table is not None:
                table, inputs = np.array(group.table, np.float32) * (1 << logit_shift), {}
            passes.append(
                _Pass(
                    name=name,
                    stage=s,
                    group=group,
                    scale=group.scale,
                    order=group.order,
                    known=known,
                    low_bits=stage.low_bits,
                    high_size=stage.high_size,
                    low_size=stage.low_size,
                    logits=stage.logits,
                    table=table,
                    inputs=inputs,
                )
            )
        plan.append(passes)
    return plan


class ContextPrior:
    """A latent prior whose probabilities hang on the indices already coded. Safe to use from several threads.

    Args:
        stages: how each residual stage is coded.
        weights: 256 integers for exp(-x).
        logit_shift: fractional bits of the network's sums.
        network: prior.onnx.

    Raises BundleError when the parts do not fit or the network cannot be proved exact (`ndsc.codec.exact`).
    """

    def __init__(
        self, stages: Sequence[Stage], weights: Sequence[int], logit_shift: int, network: bytes
    ) -> None:
        self.stages = tuple(stages)
        self.network = network
        self._indices = [np.array(stage.order, np.int32) for stage in self.stages]
        self._labels = [np.argsort(order).astype(np.int32) for order in self._indices]
        self._weights, self._shift = list(weights), logit_shift
        self._weights_float = np.array(weights, dtype=np.float64)
        self._plan = _plan(self.stages, logit_shift)
        self._networks = [p for passes in self._plan for p in passes if p.table is None]
        if len(network) > MAX_NETWORK_BYTES:
            raise BundleError(f"prior.onnx is larger than {MAX_NETWORK_BYTES} bytes")
        self._graph = onnx_graph.read(network, "prior.onnx")
        rows = {name: count for p in self._networks for name, count in p.inputs.items()}
        bounds = exact.prove(self._graph, rows, "prior.onnx")
        outputs = {f"{p.name}.sums" for p in self._networks}
        if set(bounds) != outputs:
            raise BundleError(
                f"prior.onnx has outputs {printable(str(sorted(bounds)))} where {sorted(outputs)} belong"
            )
        self._fit: set[tuple[str, int, int]] = set()
        for one in self._networks:
            # Already here, since a runtime computes what hangs on constants alone when it loads the file.
            self._check_shapes(one, 1, 1)

    @property
    def rate_levels(self) -> None:
        """None: a level is the number of stages sent."""
        return

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codebook size of each stage."""
        return tuple(stage.codebook_size for stage in self.stages)

    def passes(self, stages_sent: int) -> tuple[str, ...]:
        """Names of the network passes for one frame of this many stages, in coding order."""
        return tuple(p.name for p in self._networks if p.stage < stages_sent)

    @classmethod
    def from_files(cls, prior_json: bytes, network: bytes) -> Self:
        """Read `prior.json` and `prior.onnx`. Raises BundleError."""
        check_json_length(prior_json, "prior.json")
        try:
            parsed = _PriorFile.model_validate_json(prior_json)
        except ValidationError as error:
            raise BundleError(f"prior.json is not a valid prior: {first_problem(error)}") from error
        if hashlib.sha256(network).hexdigest() != parsed.network_sha256:
            raise BundleError("prior.onnx is not the network that prior.json names")
        return cls(parsed.stages, parsed.weights, parsed.logit_shift, network)

    def files(self) -> dict[str, bytes]:
        """The bundle's files of this prior, in their one spelling."""
        content = {
            "kind": "context",
            "frequency_bits": 16,
            "network_sha256": hashlib.sha256(self.network).hexdigest(),
            "weights": self._weights,
            "logit_shift": self._shift,
            "stages": [stage.model_dump(exclude_none=True) for stage in self.stages],
        }
        spelt = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        try:
            _PriorFile.model_validate_json(spelt)
        except ValidationError as error:
            raise BundleError(f"this is not a valid prior: {first_problem(error)}") from error
        return {"prior.json": spelt, "prior.onnx": self.network}

    def encode(self, indices: Grid, rate_level: int = 0, *, threads: int = 1) -> bytes:
        """Indices int32 [stages sent, h, w], inside their codebooks → coded bytes, whole words."""
        return entropy.encode(*self._digits(indices))

    def ideal_bits(self, indices: Grid, rate_level: int = 0) -> float:
        """Information in indices [stages sent, h, w] under this prior: -Σ log2(frequency / 2**16)."""
        total = 0.0
        for digits, table in zip(*self._digits(indices), strict=True):
            frequencies = np.take_along_axis(table, digits[:, None].astype(np.int64), 1)
            total += FREQUENCY_BITS * digits.size - float(np.log2(frequencies).sum())
        return total

    def decode(self, coded: bytes, stages_sent: int, height: int, width: int, rate_level: int = 0) -> Grid:
        """Coded bytes → indices int32 [stages sent, height, width].

        Raises PayloadCorruptError where the bytes are not the very ones that `encode` makes of the indices.
        """
        reader = entropy.decoder(coded)
        digits: list[Grid] = []
        tables: list[Frequencies] = []

        def read(frequencies: Frequencies) -> Grid:
            digits.append(reader.decode(len(frequencies), frequencies))
            tables.append(frequencies)
            return digits[-1]

        indices = self._fill(stages_sent, height, width, read)
        if entropy.encode(digits, tables) != coded:
            raise PayloadCorruptError(
                "the coded bytes are not those of a sound encoder; ask for the frame again"
            )
        return indices

    def sample(
        self, rng: np.random.Generator, stages_sent: int, height: int, width: int, rate_level: int = 0
    ) -> Grid:
        """Indices int32 [stages sent, height, width] drawn from this prior, in integer arithmetic."""

        def draw(frequencies: Frequencies) -> Grid:
            points = rng.integers(FREQUENCY_TOTAL, size=(len(frequencies), 1))
            digits: Grid = (np.cumsum(frequencies, axis=1) <= points).sum(axis=1, dtype=np.int32)
            return digits

        return self._fill(stages_sent, height, width, draw)

    def bits_of_payload(self, stages_sent: int, positions: int) -> tuple[float, float]:
        """Fewest and most bits that the range coder can take for a grid of this many positions."""
        least = most = 0.0
        for stage in self.stages[:stages_sent]:
            for size in filter(None, (stage.high_size, stage.low_size)):
                likely, unlikely = code_bits(FREQUENCY_TOTAL - size + 1, size)[0], code_bits(1, size)[1]
                least += likely * positions
                most += unlikely * positions
        return least, most

    def _digits(self, indices: Grid) -> tuple[list[Grid], list[Frequencies]]:
        """Every digit in coding order, and the frequencies of each."""
        digits: list[Grid] = []
        tables: list[Frequencies] = []

        def note(known: Grid, frequencies: Frequencies) -> None:
            digits.append(known)
            tables.append(frequencies)

        labels = np.stack([label[grid] for label, grid in zip(self._labels, indices, strict=False)])
        self._walk(Planes(labels, self.codebook_sizes, known=True), None, note)
        return digits, tables

    def _fill(self, stages_sent: int, height: int, width: int, read: Callable[[Frequencies], Grid]) -> Grid:
        """Indices whose digits come from `read`."""
        labels = np.zeros((stages_sent, height, width), np.int32)
        self._walk(Planes(labels, self.codebook_sizes, known=False), read, None)
        return np.stack([order[grid] for order, grid in zip(self._indices, labels, strict=False)])

    def _walk(
        self,
        planes: Planes,
        read: Callable[[Frequencies], Grid] | None,
        note: Callable[[Grid, Frequencies], None] | None,
    ) -> None:
        """Every group in order: `read` its digits and put them into the planes, or `note` those that are there."""
        for one in chain.from_iterable(self._plan[: planes.stages]):
            sums, bits = self._sums(planes, one), one.low_bits
            place = places(planes.height, planes.width, one.scale, one.order, one.high_size, one.low_size)
            frequencies = self.frequencies(place.high(sums, one.high_size))
            if note:
                labels = planes.take(one.stage, one.group)
                high = labels >> bits
                note(high, frequencies)
            elif read:
                high = labels = read(frequencies)
            if bits:
                frequencies = self.frequencies(sums.take(place.low + high * place.apart))
                if note:
                    note(labels & ((1 << bits) - 1), frequencies)
                elif read:
                    labels = (high << bits) | read(frequencies)
            if read:
                planes.put(one.stage, one.group, labels)

    def frequencies(self, sums: NDArray[np.float32]) -> Frequencies:
        """A network's sums, whole numbers [k, n] → frequencies [n, k]: whole, at least 1, each row's sum 2**16.

        logit = ⌊sum / 2**shift + 1/2⌋; weight = table[min(largest logit - logit, 255)]; frequency =
        1 + ⌊weight · (2**16 - k) / Σ weights⌋ but for digit 0, which has what is left. float64 holds every number
        here exactly but the quotient, and that is below 2**16 and either whole or at least 2**-24 away from it, so
        its ⌊⌋ is exact too.
        """
        logits = sums.astype(np.int64)
        logits += 1 << self._shift >> 1
        logits >>= self._shift
        below = np.subtract(logits.max(axis=0), logits, out=logits)
        shares = self._weights_float.take(below, mode="clip")
        total = shares.sum(axis=0)
        shares *= FREQUENCY_TOTAL - len(sums)
        shares /= total
        np.floor(shares, out=shares)
        shares += 1
        shares[0] = FREQUENCY_TOTAL - shares[1:].sum(axis=0)
        return np.ascontiguousarray(shares.T)

    def _sums(self, planes: Planes, one: _Pass) -> NDArray[np.float32]:
        """What a group's logits are rounded from: [phases, logits of the stage, rows, columns] of cells."""
        bands, cells = planes.bands(one.scale), planes.cells(one.scale)
        if one.table is not None:
            return np.broadcast_to(one.table[bands].T[None, :, :, None], one.shape(*cells))
        self._check_shapes(one, *cells)
        feeds: dict[str, NDArray[np.int32]] = {f"{one.name}.band": bands[None]}
        if one.known:
            feeds[f"{one.name}.known"] = planes.stack(one.stage, one.scale, one.known)[None]
        for t in range(one.stage):
            feeds[f"{one.name}.earlier{t}"] = planes.grid(t, one.scale)[None]
        sums = self._sessions[one.name].run(feeds)
        if sums.shape != one.shape(*cells):
            raise BundleError(
                f"prior.onnx: {one.name}.sums is {list(sums.shape)}, not {list(one.shape(*cells))}"
            )
        return sums

    def _check_shapes(self, one: _Pass, rows: int, columns: int) -> None:
        """Raise BundleError where a network has no such sums for a grid of so many cells, or takes too much."""
        key = (one.name, rows, columns)
        if key in self._fit:
            return
        inputs: dict[str, shapes.Shape] = {f"{one.name}.band": (1, rows)}
        if one.known:
            inputs[f"{one.name}.known"] = (1, len(one.known), rows, columns)
        inputs |= {f"{one.name}.earlier{t}": (1, 2 * rows, 2 * columns) for t in range(one.stage)}
        expected = {f"{one.name}.sums": one.shape(rows, columns)}
        shapes.check(self._graph, inputs, expected, shapes.most_elements(rows * columns), "prior.onnx")
        if len(self._fit) >= _SIZES_KNOWN:
            self._fit.clear()
        self._fit.add(key)

    @cached_property
    def _sessions(self) -> Mapping[str, PriorSession]:
        return {
            p.name: PriorSession(
                onnx_graph.cut(self.network, f"{p.name}.sums", "prior.onnx"), p.name, tuple(p.inputs)
            )
            for p in self._networks
        }
