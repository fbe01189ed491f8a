"""Sections 2, 3, 4, 11 and 14 of proto/SPEC.md: what two machines share, read from a bundle and checked."""

# ruff: noqa: N802, N803, N806 -- the names are those of the specification.

from __future__ import annotations

import base64
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from tests.golden.spec_errors import BundleError, RateLevelError
from tests.golden.spec_json import canonical, integer, integers, items, keyed, parsed, text
from tests.golden.spec_network import Needs, Network
from tests.golden.spec_operations import Shape

KEYS: Final = {"format_version", "name", "bitstream", "files", "opset", "ir_version", "training", "licence"}
BITSTREAM_KEYS: Final = {"format_version", "stride", "codebook_sizes", "rate_levels", "prior_sha256"}
LIMIT_KEYS: Final = {"max_side", "max_pixels"}
REQUIRED: Final = {"encoder.onnx", "decoder.onnx", "prior.json", "golden.json"}
NAME: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
SHA256: Final = "[0-9a-f]{64}"
MOST_JSON_BYTES: Final = 1 << 23
PHASES: Final = ((0, 0), (0, 1), (1, 0), (1, 1))
BANDS: Final = 8

Phase = tuple[int, int]


@dataclass(frozen=True)
class StaticPrior:
    """Section 4, kind `static-table`."""

    frequencies: tuple[tuple[int, ...], ...]

    @property
    def codebook_sizes(self) -> list[int]:
        """K_s of each stage."""
        return [len(table) for table in self.frequencies]


@dataclass(frozen=True)
class Group:
    """Positions whose logits are found at once."""

    scale: int
    phases: tuple[Phase, ...]
    table: tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True)
class Stage:
    """How one stage is coded."""

    codebook_size: int
    low_bits: int
    order: tuple[int, ...]
    groups: tuple[Group, ...]

    @property
    def H(self) -> int:
        """Values of the high digit."""
        return self.codebook_size >> self.low_bits

    @property
    def L(self) -> int:
        """Values of the low digit; 1 where there is none."""
        return 1 << self.low_bits

    @property
    def logits(self) -> int:
        """Of one position."""
        return self.H * (1 + self.L) if self.low_bits else self.H

    def known(self, g: int) -> list[Phase]:
        """Section 7.2: the phases that group g is told, in order."""
        scale = self.groups[g].scale
        phases = [(0, 0)] if scale == 0 and self.groups[0].scale == 1 else []
        for earlier in self.groups[:g]:
            phases += earlier.phases if earlier.scale == scale else ()
        return phases


@dataclass(frozen=True)
class ContextPrior:
    """Section 4, kind `context`."""

    weights: tuple[int, ...]
    logit_shift: int
    stages: tuple[Stage, ...]
    network: Network

    @property
    def codebook_sizes(self) -> list[int]:
        """K_s of each stage."""
        return [stage.codebook_size for stage in self.stages]


@dataclass(frozen=True)
class CellGroup:
    """Section 14.3: positions whose means and scales are found at once."""

    name: str
    side: int
    phases: tuple[Phase, ...]
    known: tuple[Phase, ...]


CELL_GROUPS: Final = (
    CellGroup("first", 4, ((0, 0),), ()),
    CellGroup("coarse", 4, ((0, 2), (2, 0), (2, 2)), ((0, 0),)),
    CellGroup("diagonal", 2, ((1, 1),), ((0, 0),)),
    CellGroup("rest", 2, ((0, 1), (1, 0)), ((0, 0), (1, 1))),
)


@dataclass(frozen=True)
class ScalarPrior:
    """Section 14.2, kind `scalar`."""

    P: int
    b: int
    mean_shift: int
    scale_shift: int
    tables: tuple[tuple[int, ...], ...]
    first: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """Means and scales of each plane, of each rate level."""
    network: Network

    @property
    def S(self) -> int:
        """Scales."""
        return len(self.tables) // 4

    @property
    def codebook_sizes(self) -> list[int]:
        """2b + 1 of each plane."""
        return [2 * self.b + 1] * self.P


@dataclass(frozen=True)
class Vector:
    """Section 11: a payload, and its indices or the kind of error that it must give."""

    rate_level: int
    h: int
    w: int
    payload: bytes
    indices: bytes = b""
    damage: str = ""
    error: str = ""


@dataclass(frozen=True)
class Bundle:
    """All that getting indices out of payloads takes."""

    bitstream_id: bytes
    bundle_id: str
    stride: int
    rate_levels: tuple[int, ...]
    max_side: int
    max_pixels: int
    prior: StaticPrior | ContextPrior | ScalarPrior
    entries: tuple[Vector, ...]
    damaged: tuple[Vector, ...]

    def stages_sent(self, rate_level: int) -> int:
        """Section 10, check 3."""
        if not 0 <= rate_level < len(self.rate_levels):
            raise RateLevelError(f"no rate level {rate_level}")
        return self.rate_levels[rate_level]


def read_bundle(path: Path) -> Bundle:
    """A bundle from a directory or a zip. Raises BundleError."""
    if path.is_dir():
        return _bundle(lambda name, most: _from_folder(path / name, most))
    try:
        with zipfile.ZipFile(path) as archive:
            manifests = [name for name in archive.namelist() if PurePosixPath(name).name == "manifest.json"]
            if len(manifests) != 1:
                raise BundleError("not one manifest.json in the zip")
            folder = PurePosixPath(manifests[0]).parent
            if len(folder.parts) > 1:
                raise BundleError("manifest.json lies below the folder at the zip's top")
            return _bundle(lambda name, most: _from_zip(archive, str(folder / name), most))
    except (OSError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is not a readable zip: {error}") from error


def _from_folder(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}") from error


def _from_zip(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    try:
        with archive.open(name) as file:
            return file.read(most + 1)
    except KeyError as error:
        raise BundleError(f"no {name} in the zip") from error


def _bundle(read: Callable[[str, int], bytes]) -> Bundle:
    """Section 3."""
    data = read("manifest.json", 1 << 20)
    if len(data) > 1 << 20:
        raise BundleError("manifest.json is too long")
    manifest = keyed(parsed(data), KEYS)
    for key in ("opset", "ir_version"):
        integer(manifest[key], 1, 1000)
    version = integer(manifest["format_version"], 1, 2)
    text(manifest["name"], NAME)
    text(manifest["licence"], "(?s:.{1,200})")
    if type(manifest["training"]) is not dict:
        raise BundleError("training is not an object")
    files = manifest["files"]
    if type(files) is not dict or len(files) > 16 or not files.keys() >= REQUIRED:
        raise BundleError("files does not list what a bundle holds")
    for name, listed in files.items():
        text(name, NAME)
        text(keyed(listed, {"sha256", "bytes"})["sha256"], SHA256)
        integer(listed["bytes"], 1, 1 << 28)

    def file(name: str) -> bytes:
        content = read(name, files[name]["bytes"])
        if name.endswith(".json") and len(content) > MOST_JSON_BYTES:
            raise BundleError(f"{name} is too long")
        if len(content) != files[name]["bytes"] or _sha256(content) != files[name]["sha256"]:
            raise BundleError(f"{name} is not the file that the manifest lists")
        return content

    facts = keyed(manifest["bitstream"], BITSTREAM_KEYS | LIMIT_KEYS)  # section 3.1
    for key, most in {"stride": 256, "max_side": 65535, "max_pixels": 1 << 26}.items():
        integer(facts[key], 1, most)
    integer(facts["format_version"], version, version)
    sizes = integers(facts["codebook_sizes"], 1, 16 if version == 1 else 64, 2, 65536)
    levels = integers(facts["rate_levels"], 1, 256, 1, len(sizes))
    if list(levels) != sorted(levels):
        raise BundleError("rate levels fall")
    if text(facts["prior_sha256"], SHA256) != files["prior.json"]["sha256"]:
        raise BundleError("two hashes of prior.json")
    prior_json = parsed(file("prior.json"))
    kind = prior_json.get("kind") if type(prior_json) is dict else None
    kinds = ("static-table", "context") if version == 1 else ("scalar",)
    if kind not in kinds or (kind != "static-table") != ("prior.onnx" in files):
        raise BundleError("a prior of an unknown kind, or prior.onnx where it does not belong")
    prior: StaticPrior | ContextPrior | ScalarPrior
    if kind == "static-table":
        prior = _static(prior_json)
    else:
        prior = (_context if kind == "context" else _scalar)(prior_json, file("prior.onnx"))
    if isinstance(prior, ScalarPrior) and levels != (prior.P,) * len(prior.first):
        raise BundleError("a rate level that does not send every plane, or other levels than prior.json")
    if prior.codebook_sizes != list(sizes):
        raise BundleError("prior.json is for other codebooks")
    entries, damaged = _vectors(parsed(file("golden.json")), facts)
    return Bundle(
        bitstream_id=hashlib.sha256(canonical(facts)).digest()[:16],  # section 3.2
        bundle_id=_sha256(canonical(manifest)),
        stride=facts["stride"],
        rate_levels=levels,
        max_side=facts["max_side"],
        max_pixels=facts["max_pixels"],
        prior=prior,
        entries=entries,
        damaged=damaged,
    )


def _static(content: Any) -> StaticPrior:
    """Section 4, kind `static-table`."""
    keyed(content, {"kind", "frequency_bits", "frequencies"})
    integer(content["frequency_bits"], 16, 16)
    tables = [integers(table, 2, 65536, 1, 65536) for table in items(content["frequencies"], 1, 16)]
    if any(sum(table) != 65536 for table in tables):
        raise BundleError("frequencies do not add up to 65536")
    return StaticPrior(tuple(tables))


def _context(content: Any, onnx: bytes) -> ContextPrior:
    """Section 4, kind `context`, with the network's inputs of section 7.2."""
    keys = {"kind", "frequency_bits", "network_sha256", "weights", "logit_shift", "stages"}
    keyed(content, keys)
    integer(content["frequency_bits"], 16, 16)
    if text(content["network_sha256"], SHA256) != _sha256(onnx):
        raise BundleError("prior.onnx is not the network of prior.json")
    weights = integers(content["weights"], 256, 256, 0, 65536)
    if weights[0] != 65536 or list(weights) != sorted(weights, reverse=True):
        raise BundleError("weights do not fall from 65536")
    stages = tuple(_stage(stage) for stage in items(content["stages"], 1, 16))
    groups = {
        f"s{s}g{g}": _needs(stages, s, g)
        for s, stage in enumerate(stages)
        for g, group in enumerate(stage.groups)
        if group.table is None
    }
    if len(groups) > 8:
        raise BundleError("more than 8 groups without a table")
    shift = integer(content["logit_shift"], 0, 8)
    return ContextPrior(weights, shift, stages, Network(onnx, groups))


def _scalar(content: Any, onnx: bytes) -> ScalarPrior:
    """Section 14.2, kind `scalar`, with the network's inputs of section 14.3."""
    keys = {"kind", "frequency_bits", "network_sha256", "planes", "bound", "tables", "first"}
    keyed(content, keys | {"mean_shift", "scale_shift"})
    integer(content["frequency_bits"], 16, 16)
    if text(content["network_sha256"], SHA256) != _sha256(onnx):
        raise BundleError("prior.onnx is not the network of prior.json")
    P, b = integer(content["planes"], 1, 64), integer(content["bound"], 1, 31)
    size = 4 * b + 1
    tables = tuple(integers(table, size, size, 1, 65536) for table in items(content["tables"], 4, 256))
    if len(tables) % 4 or any(sum(table) != 65536 for table in tables):
        raise BundleError("not four tables a scale, or frequencies that do not add up to 65536")
    first = []
    for level in items(content["first"], 1, 256):
        keyed(level, {"mean", "scale"})
        means = integers(level["mean"], P, P, -4 * b, 4 * b)
        first.append((means, integers(level["scale"], P, P, 0, len(tables) // 4 - 1)))
    groups = {g.name: _scalar_needs(g, P, b, len(first)) for g in CELL_GROUPS[1:]}
    shifts = integer(content["mean_shift"], 0, 16), integer(content["scale_shift"], 0, 16)
    return ScalarPrior(P, b, *shifts, tables, tuple(first), Network(onnx, groups))


def _scalar_needs(group: CellGroup, P: int, b: int, levels: int) -> Needs:
    """Section 14.3: what the network of a group takes and gives."""
    name = group.name

    def shapes(R: int, C: int) -> dict[str, Shape]:
        return {
            f"{name}.known": (1, len(group.known) * P, R, C),
            f"{name}.level": (1,),
            f"{name}.sums": (1, 2 * len(group.phases) * P, R, C),
        }

    return Needs({f"{name}.known": 2 * b + 2, f"{name}.level": levels}, shapes)


def _needs(stages: Sequence[Stage], s: int, g: int) -> Needs:
    """Sections 7.2 and 7.3: what the network of group g of stage s takes and gives."""
    stage, group, name = stages[s], stages[s].groups[g], f"s{s}g{g}"
    n = len(stage.known(g))
    rows = {f"{name}.band": BANDS}
    if n:
        rows[f"{name}.known"] = stage.codebook_size + 1
    for t in range(s):
        rows[f"{name}.earlier{t}"] = stages[t].codebook_size + 1

    def shapes(R: int, C: int) -> dict[str, Shape]:
        every = {f"{name}.band": (1, R), f"{name}.known": (1, n, R, C)}
        every |= {f"{name}.earlier{t}": (1, 2 * R, 2 * C) for t in range(s)}
        return {key: every[key] for key in rows} | {f"{name}.sums": (len(group.phases), stage.logits, R, C)}

    return Needs(rows, shapes)


def _stage(content: Any) -> Stage:
    keyed(content, {"codebook_size", "low_bits", "order", "groups"})
    size = integer(content["codebook_size"], 2, 4096)
    groups = []
    for item in items(content["groups"], 1, 16):
        keyed(item, {"scale", "phases"}, {"table"})
        phases = tuple(integers(pair, 2, 2, 0, 1) for pair in items(item["phases"], 1, 4))
        table = None
        if item.get("table") is not None:
            table = tuple(integers(row, 2, 1 << 13, -4096, 4096) for row in items(item["table"], 8, 8))
        groups.append(Group(integer(item["scale"], 0, 1), tuple((a, b) for a, b in phases), table))
    stage = Stage(
        size,
        integer(content["low_bits"], 0, 8),
        integers(content["order"], size, size, 0, size - 1),
        tuple(groups),
    )
    if size != stage.H * stage.L or not 2 <= stage.H <= 256:
        raise BundleError("low_bits does not split the codebook")
    if sorted(stage.order) != list(range(size)):
        raise BundleError("order does not hold every index once")
    if any(len(row) != stage.logits for group in groups for row in group.table or ()):
        raise BundleError("a table of another width")
    scales = [group.scale for group in groups]
    held = {n: sorted(p for group in groups if group.scale == n for p in group.phases) for n in (0, 1)}
    fine = list(PHASES[1:] if 1 in scales else PHASES)
    if scales != sorted(scales, reverse=True) or held != {0: fine, 1: list(PHASES) if 1 in scales else []}:
        raise BundleError("the groups do not hold every position once, scale 1 first")
    return stage


def _vectors(content: Any, facts: dict[str, Any]) -> tuple[tuple[Vector, ...], tuple[Vector, ...]]:
    """Section 11: the entries and the damaged payloads."""
    keyed(content, {"entries", "damaged"})
    entries, damaged = [], []
    for item in items(content["entries"], 1, 4096):
        keyed(item, {"rate_level", "grid", "indices", "payload"})
        try:
            indices = base64.b64decode(text(item["indices"], "[A-Za-z0-9+/=]*"), validate=True)
        except ValueError as error:
            raise BundleError("indices are not Base64") from error
        entries.append(Vector(*_coded(item, facts), indices=indices))
    for item in items(content["damaged"], 1, 4096):
        keyed(item, {"damage", "rate_level", "grid", "payload", "error"})
        text(item["damage"], "(?s:.{0,100})")
        text(item["error"], "Payload(Size|Corrupt)Error")
        damaged.append(Vector(*_coded(item, facts), damage=item["damage"], error=item["error"]))
    return tuple(entries), tuple(damaged)


def _coded(item: dict[str, Any], facts: dict[str, Any]) -> tuple[int, int, int, bytes]:
    h, w = integers(item["grid"], 2, 2, 1, 1024)
    height, width = ((side - 1) * facts["stride"] + 1 for side in (h, w))  # the smallest frame of this grid
    if max(height, width) > facts["max_side"] or height * width > facts["max_pixels"]:
        raise BundleError(f"a golden vector of a grid of {h} × {w}, which no frame has")
    payload = text(item["payload"], r"[\t-\r ]*([0-9A-Fa-f]{2}[\t-\r ]*)*")
    level = integer(item["rate_level"], 0, len(facts["rate_levels"]) - 1)
    return level, h, w, bytes.fromhex(payload)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
