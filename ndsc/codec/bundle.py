"""Bundles: the one thing training hands to everything else, a directory or a zip.

    manifest.json   what the bits mean, and the sha256 and size of every other file
    encoder.onnx    frame → indices           prior.json    the latent prior's tables and coding order
    decoder.onnx    indices, y → frame        prior.onnx    its networks, where it has any
                                              golden.json   indices and the payloads they must become

Two identities: the **bitstream id** hashes the manifest's "bitstream" object, what the bits mean; the
**bundle id** hashes the whole manifest, and through it every file. Another decoder changes the second and
not the first. Canonical JSON, which both hash, has sorted keys, no spaces, and is UTF-8. `proto/SPEC.md` holds
format version 1, of residual stages, and version 2, of a scalar quantizer's planes; version 0 carried no promise
and is not read any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from ndsc.codec.bitstream import BITSTREAM_ID_BYTES, Bitstream
from ndsc.codec.context import ContextPrior
from ndsc.codec.errors import BundleError, OutputError, first_problem
from ndsc.codec.frames import Geometry
from ndsc.codec.golden import Golden, make_golden
from ndsc.codec.prior import FREQUENCY_TOTAL, MAX_STAGES, LatentPrior, StaticPrior
from ndsc.codec.scalar_prior import MAX_PLANES, ScalarPrior

BUNDLE_ENVIRONMENT: Final = "NDSC_BUNDLE"
MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_FILE_BYTES: Final = 256 << 20
MANIFEST: Final = "manifest.json"
DECODER: Final = "decoder.onnx"
REQUIRED_FILES: Final = ("encoder.onnx", DECODER, "prior.json", "golden.json")

Parts = Literal["all", "encoder"]
"""What is read of a bundle: every file, or those that a camera node needs, which are all but the decoder."""

_PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
_Version = Annotated[int, Field(ge=1, le=2)]
PLANES_VERSION: Final = 2
"""The format version of bundles whose prior is a scalar quantizer's."""
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BitstreamFacts(_Strict):
    """The manifest's "bitstream" object: what the bits mean."""

    format_version: _Version
    stride: Annotated[int, Field(ge=1, le=256)]
    codebook_sizes: Annotated[
        list[Annotated[int, Field(ge=2, le=FREQUENCY_TOTAL)]], Field(min_length=1, max_length=MAX_PLANES)
    ]
    rate_levels: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=256)]
    """Stages sent at each level."""
    max_side: Annotated[int, Field(ge=1, le=0xFFFF)]
    max_pixels: Annotated[int, Field(ge=1, le=1 << 26)]
    prior_sha256: _Sha256

    @model_validator(mode="after")
    def _levels_rise(self) -> Self:
        if self.format_version < PLANES_VERSION and len(self.codebook_sizes) > MAX_STAGES:
            raise ValueError(f"codebook_sizes has more than {MAX_STAGES} entries")
        if sorted(self.rate_levels) != self.rate_levels or self.rate_levels[-1] > len(self.codebook_sizes):
            raise ValueError(
                "rate_levels must not fall and must not send more stages than there are codebooks"
            )
        return self

    @property
    def bitstream_id(self) -> bytes:
        """First 16 bytes of the sha256 of this object's canonical JSON."""
        return hashlib.sha256(canonical_json(self.model_dump())).digest()[:BITSTREAM_ID_BYTES]


class FileFacts(_Strict):
    """What the manifest says of one file."""

    sha256: _Sha256
    bytes: Annotated[int, Field(ge=1, le=MAX_FILE_BYTES)]


class Manifest(_Strict):
    """The content of `manifest.json`."""

    format_version: _Version
    name: _PlainName
    bitstream: BitstreamFacts
    files: Annotated[dict[_PlainName, FileFacts], Field(max_length=16)]
    opset: Annotated[int, Field(ge=1, le=1000)]
    ir_version: Annotated[int, Field(ge=1, le=1000)]
    training: dict[str, JsonValue]
    """What was trained on what; free in form."""
    licence: Annotated[str, Field(min_length=1, max_length=200)]
    """Of the weights, as an SPDX identifier."""

    @model_validator(mode="after")
    def _files_fit(self) -> Self:
        missing = [name for name in REQUIRED_FILES if name not in self.files]
        if missing:
            raise ValueError(f"{missing[0]} is not listed under files")
        if self.format_version != self.bitstream.format_version:
            raise ValueError("the manifest and its bitstream have different format versions")
        if self.files["prior.json"].sha256 != self.bitstream.prior_sha256:
            raise ValueError("prior_sha256 is not the sha256 listed for prior.json")
        return self

    @classmethod
    def parse(cls, data: bytes, path: Path | str) -> Self:
        """The bytes of `manifest.json` → a checked manifest; `path` is named in errors. Raises BundleError."""
        try:
            manifest = cls.model_validate_json(data)
            canonical_json(manifest.model_dump())
        except ValidationError as error:
            raise BundleError(
                f"{path}: {MANIFEST} is not one this release can use: {first_problem(error)}"
            ) from error
        except ValueError as error:
            raise BundleError(f"{path}: {MANIFEST} holds a value that cannot be hashed: {error}") from error
        return manifest

    def listed(self, parts: Parts) -> dict[str, FileFacts]:
        """The files that make up `parts`, by name."""
        return {name: facts for name, facts in self.files.items() if parts == "all" or name != DECODER}

    @property
    def bundle_id(self) -> str:
        """sha256 of the manifest's canonical JSON, hexadecimal: names every byte of every file."""
        return hashlib.sha256(canonical_json(self.model_dump())).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one spelling that is hashed: sorted keys, no spaces, UTF-8. ValueError for what JSON cannot say."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


class Bundle:
    """A verified bundle, held in memory. Make one with `Bundle.load`.

    Attributes:
        path: where it was read from.
        manifest: its checked manifest.
        bundle_id: hexadecimal sha256 that names every file.
        bitstream: what its bits mean, for `ndsc.codec.bitstream`.
        files: the bytes of `manifest.json` and of every file that was read, by name.
        encoder_onnx: the encoder's graph.
        golden: its golden vectors.
    """

    def __init__(self, path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        for name, listed in manifest.files.items():
            if name == DECODER and name not in files:
                continue
            if len(files[name]) != listed.bytes or hashlib.sha256(files[name]).hexdigest() != listed.sha256:
                raise BundleError(f"{path}: {name} is not the file the manifest lists; copy the bundle again")
        facts = manifest.bitstream
        prior = _prior(facts.format_version, files)
        if prior.rate_levels not in (None, len(facts.rate_levels)):
            raise BundleError(
                f"{path}: prior.json is for {prior.rate_levels} rate levels, the manifest has "
                f"{len(facts.rate_levels)}"
            )
        if prior.rate_levels and set(facts.rate_levels) != {len(prior.codebook_sizes)}:
            raise BundleError(
                f"{path}: every rate level of this prior sends {len(prior.codebook_sizes)} planes"
            )
        if list(prior.codebook_sizes) != facts.codebook_sizes:
            raise BundleError(
                f"{path}: prior.json is for codebooks of {list(prior.codebook_sizes)} vectors, "
                f"the manifest says {facts.codebook_sizes}"
            )
        self.path = path
        self.manifest = manifest
        self.bundle_id = manifest.bundle_id
        self.bitstream = Bitstream(
            facts.bitstream_id,
            Geometry(facts.stride, facts.max_side, facts.max_pixels),
            prior,
            tuple(facts.rate_levels),
        )
        self.files = files
        self.encoder_onnx = files["encoder.onnx"]
        self.golden = Golden.from_json(files["golden.json"])
        self._golden_checked = False

    @classmethod
    def load(cls, path: str | Path, parts: Parts = "all") -> Self:
        """Read a bundle from a directory or a zip and verify the size and hash of every file it lists.

        With parts="encoder" the decoder is neither read nor missed: enough to encode. Files the manifest does
        not list (a model card, a licence) are passed over. A zip holds the files at its top or all in one
        folder. Raises BundleError, which names the file at fault.
        """
        path = Path(path)
        if path.is_dir():
            return cls._assemble(path, parts, lambda name, limit: _read_file(path / name, limit))
        if not path.exists():
            raise BundleError(f"{path}: no such bundle")
        try:
            with zipfile.ZipFile(path) as archive:
                members = _zip_members(archive, path)
                return cls._assemble(
                    path, parts, lambda name, limit: _read_member(archive, members, name, limit)
                )
        except BundleError:
            raise
        except Exception as error:  # zipfile and its decompressors raise a dozen types on damaged input
            raise BundleError(f"{path}: not a readable zip of a bundle: {error}") from error

    @classmethod
    def _assemble(cls, path: Path, parts: Parts, read: Callable[[str, int], bytes]) -> Self:
        files = {MANIFEST: read(MANIFEST, MAX_MANIFEST_BYTES)}
        manifest = Manifest.parse(files[MANIFEST], path)
        files |= {name: read(name, facts.bytes) for name, facts in manifest.listed(parts).items()}
        return cls(path, manifest, files)

    @property
    def decoder_onnx(self) -> bytes:
        """The decoder's graph. Raises BundleError when the bundle was loaded without it."""
        if DECODER not in self.files:
            raise BundleError(f"{self.path}: loaded without its decoder, as camera nodes do; it only encodes")
        return self.files[DECODER]

    @property
    def name(self) -> str:
        """Short name for people."""
        return self.manifest.name

    @property
    def bitstream_id(self) -> bytes:
        """16 bytes that name what the bits mean."""
        return self.bitstream.bitstream_id

    @property
    def geometry(self) -> Geometry:
        """Which frame sizes can be coded."""
        return self.bitstream.geometry

    @property
    def prior(self) -> LatentPrior:
        """The latent prior."""
        return self.bitstream.prior

    @property
    def rate_level_count(self) -> int:
        """Rate levels, 0 (the lowest) to this minus 1."""
        return len(self.bitstream.rate_levels)

    @property
    def default_rate_level(self) -> int:
        """The middle level, the lower of two middles."""
        return (self.rate_level_count - 1) // 2

    def stages_sent(self, rate_level: int) -> int:
        """Stages in a payload of `rate_level`. Raises RateLevelError."""
        return self.bitstream.stages_sent(rate_level)

    def check_golden(self) -> None:
        """Code the golden vectors in this process, the first time it is called. Raises BundleError."""
        if not self._golden_checked:
            self.golden.check(self.bitstream)
            self._golden_checked = True


def _prior(format_version: int, files: Mapping[str, bytes]) -> LatentPrior:
    """The prior of a bundle's files. Raises BundleError."""
    if format_version == PLANES_VERSION:
        if "prior.onnx" not in files:
            raise BundleError("prior.onnx is not listed under files")
        return ScalarPrior(files["prior.json"], files["prior.onnx"])
    if "prior.onnx" in files:
        return ContextPrior.from_files(files["prior.json"], files["prior.onnx"])
    return StaticPrior.from_json(files["prior.json"])


def _read_file(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > limit:
        raise BundleError(f"{path}: longer than the {limit} bytes it may have")
    return data


def _zip_members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The zip's members by their name below the folder that holds manifest.json."""
    manifests = [PurePosixPath(name) for name in archive.namelist() if PurePosixPath(name).name == MANIFEST]
    if len(manifests) != 1 or len(manifests[0].parts) > 2:
        raise BundleError(f"{path}: a zipped bundle holds one manifest.json, at its top or in one folder")
    folder = manifests[0].parent
    return {
        PurePosixPath(info.filename).name: info
        for info in archive.infolist()
        if PurePosixPath(info.filename).parent == folder and not info.is_dir()
    }


def _read_member(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str, limit: int
) -> bytes:
    if name not in members:
        raise BundleError(f"{archive.filename}: {name} is missing")
    # The declared size can lie, so the read is bounded too: nothing expands beyond the limit.
    with archive.open(members[name]) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise BundleError(f"{archive.filename}: {name} is longer than the {limit} bytes it may have")
    return data


def write_bundle(
    directory: str | Path,
    *,
    name: str,
    encoder_onnx: bytes,
    decoder_onnx: bytes,
    prior: LatentPrior,
    geometry: Geometry,
    rate_levels: Sequence[int],
    training: Mapping[str, JsonValue],
    licence: str,
    opset: int,
    ir_version: int,
) -> Bundle:
    """Write a bundle directory, whole or not at all, and load it back.

    The golden vectors are made here, since they follow from the other parts. A bundle that is already in
    `directory` is replaced; its unlisted files (a model card) stay. Raises BundleError when the parts do
    not make a bundle or `directory` holds something else, OutputError when it cannot be written.
    """
    directory = Path(directory)
    if (
        directory.exists()
        and not (directory / MANIFEST).exists()
        and (not directory.is_dir() or any(directory.iterdir()))
    ):
        raise BundleError(f"{directory} exists and is not a bundle; choose another place or empty it")
    try:
        prior_files = prior.files()
        version = PLANES_VERSION if isinstance(prior, ScalarPrior) else 1
        facts = BitstreamFacts(
            format_version=version,
            stride=geometry.stride,
            codebook_sizes=list(prior.codebook_sizes),
            rate_levels=list(rate_levels),
            max_side=geometry.max_side,
            max_pixels=geometry.max_pixels,
            prior_sha256=hashlib.sha256(prior_files["prior.json"]).hexdigest(),
        )
        golden = make_golden(Bitstream(facts.bitstream_id, geometry, prior, tuple(rate_levels)))
        files = {
            "encoder.onnx": encoder_onnx,
            DECODER: decoder_onnx,
            **prior_files,
            "golden.json": golden.to_json(),
        }
        manifest = Manifest(
            format_version=version,
            name=name,
            bitstream=facts,
            opset=opset,
            ir_version=ir_version,
            licence=licence,
            training=dict(training),
            files={
                n: FileFacts(sha256=hashlib.sha256(d).hexdigest(), bytes=len(d)) for n, d in files.items()
            },
        )
        files[MANIFEST] = (
            json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        )
    except ValueError as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error
        raise BundleError(f"these parts do not make a bundle: {problem}") from error
    try:
        _replace_directory(directory, files)
    except OSError as error:
        raise OutputError(f"cannot write {directory}: {error.strerror or error}") from error
    return Bundle.load(directory)


def _replace_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
        fresh, old = Path(temporary) / "new", Path(temporary) / "old"
        fresh.mkdir()
        if directory.exists():
            for beside in directory.iterdir():
                if beside.is_file() and beside.name not in files:
                    shutil.copy2(beside, fresh / beside.name)
        for file_name, data in files.items():
            (fresh / file_name).write_bytes(data)
        Bundle.load(fresh)
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)


def default_bundle_path() -> Path:
    """Where the bundle is when none is named: $NDSC_BUNDLE, else the one in the wheel, else the checkout's.

    Raises BundleError when there is none.
    """
    named = os.environ.get(BUNDLE_ENVIRONMENT)
    if named:
        return Path(named)
    package = Path(__file__).parents[1]
    candidates = [package / "models" / "default"]
    if (package.parent / "pyproject.toml").exists():
        candidates.append(package.parent / "models" / "default")
    for candidate in candidates:
        if (candidate / MANIFEST).exists():
            return candidate
    raise BundleError(
        f"no bundle: name one with --bundle or set {BUNDLE_ENVIRONMENT} to its directory or zip"
    )
