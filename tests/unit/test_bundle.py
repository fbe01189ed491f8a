"""Bundles: written, verified, refused when anything is off."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ndsc.codec import bundle as bundle_module
from ndsc.codec.bundle import Bundle, canonical_json, default_bundle_path, write_bundle
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.errors import BundleError, OutputError, RateLevelError
from ndsc.codec.frames import Geometry
from ndsc.codec.golden import Golden

FILES = ("manifest.json", "encoder.onnx", "decoder.onnx", "prior.json", "golden.json")


@pytest.fixture
def copy(tiny_bundle_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may spoil."""
    return Path(shutil.copytree(tiny_bundle_path, tmp_path / "bundle"))


def zipped(directory: Path, target: Path, folder: str = "", **options: Any) -> Path:
    with zipfile.ZipFile(target, "w", **options) as archive:
        for file in sorted(directory.iterdir()):
            archive.write(file, folder + file.name)
    return target


def edit_manifest(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_facts_of_a_loaded_bundle(tiny_bundle: Bundle, tiny_parts: dict[str, Any]) -> None:
    assert tiny_bundle.name == "tiny"
    assert tiny_bundle.geometry == Geometry(8, 2048, 1 << 20)
    assert tiny_bundle.prior.codebook_sizes == (16, 8, 4)
    assert tiny_bundle.rate_level_count == 3
    assert tiny_bundle.default_rate_level == 1
    assert [tiny_bundle.stages_sent(level) for level in range(3)] == [1, 2, 3]
    for level in (-1, 3):
        with pytest.raises(RateLevelError, match="0 to 2"):
            tiny_bundle.stages_sent(level)
    assert tiny_bundle.encoder_onnx == tiny_parts["encoder_onnx"]
    assert tiny_bundle.decoder_onnx == tiny_parts["decoder_onnx"]
    assert tiny_bundle.manifest.licence == "Apache-2.0"
    assert sorted(p.name for p in tiny_bundle.path.iterdir()) == sorted(FILES)


@pytest.mark.parametrize(("levels", "middle"), [((1,), 0), ((1, 2), 0), ((1, 2, 3), 1), ((1, 1, 2, 3), 1)])
def test_default_level_is_the_middle(
    tiny_parts: dict[str, Any], tmp_path: Path, levels: tuple[int, ...], middle: int
) -> None:
    assert write_bundle(tmp_path / "b", **tiny_parts | {"rate_levels": levels}).default_rate_level == middle


def test_both_identities_are_hashes_of_canonical_json(tiny_bundle: Bundle) -> None:
    """Computed here from the file alone, as a stranger would."""
    manifest = json.loads((tiny_bundle.path / "manifest.json").read_bytes())

    def digest(value: Any) -> str:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    assert tiny_bundle.bitstream_id.hex() == digest(manifest["bitstream"])[:32]
    assert tiny_bundle.bundle_id == digest(manifest)
    for name, facts in manifest["files"].items():
        data = (tiny_bundle.path / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_canonical_json() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_another_decoder_changes_the_bundle_id_alone(
    tiny_bundle: Bundle, tiny_parts: dict[str, Any], tmp_path: Path
) -> None:
    better = write_bundle(tmp_path / "better", **tiny_parts | {"decoder_onnx": b"better"})
    assert better.bitstream_id == tiny_bundle.bitstream_id
    assert better.bundle_id != tiny_bundle.bundle_id


@pytest.mark.parametrize(
    "change",
    [
        {"geometry": Geometry(8, 2048, 1 << 19)},
        {"geometry": Geometry(8, 1024, 1 << 20)},
        {"geometry": Geometry(4, 2048, 1 << 20)},
        {"rate_levels": (1, 2)},
    ],
)
def test_what_changes_the_bits_changes_the_bitstream_id(
    tiny_bundle: Bundle, tiny_parts: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    assert write_bundle(tmp_path / "other", **tiny_parts | change).bitstream_id != tiny_bundle.bitstream_id


@pytest.mark.parametrize("folder", ["", "tiny/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_the_same_bundle(tiny_bundle: Bundle, tmp_path: Path, folder: str, compression: int) -> None:
    path = zipped(tiny_bundle.path, tmp_path / "tiny.zip", folder, compression=compression)
    loaded = Bundle.load(path)
    assert (loaded.bundle_id, loaded.path) == (tiny_bundle.bundle_id, path)
    assert loaded.decoder_onnx == tiny_bundle.decoder_onnx


def test_unlisted_files_are_passed_over(copy: Path, tiny_bundle: Bundle) -> None:
    (copy / "MODEL_CARD.md").write_text("# Tiny")
    assert Bundle.load(copy).bundle_id == tiny_bundle.bundle_id
    assert Bundle.load(zipped(copy, copy.with_suffix(".zip"))).bundle_id == tiny_bundle.bundle_id


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_missing_file_is_named(copy: Path, name: str, as_zip: bool) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        Bundle.load(zipped(copy, copy.with_suffix(".zip")) if as_zip else copy)


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize(
    "change",
    [
        lambda d: d[:-1] + bytes([d[-1] ^ 1]),
        lambda d: d[:-1],
        lambda d: d + b"\n",
        lambda d: b"",
    ],
)
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_changed_file_is_named(copy: Path, name: str, change: Any, as_zip: bool) -> None:
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    with pytest.raises(BundleError, match=name) as caught:
        Bundle.load(zipped(copy, copy.with_suffix(".zip")) if as_zip else copy)
    assert "\n" not in str(caught.value)


def _set(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_set("format_version", value=0), "format_version"),
        (_set("bitstream", "format_version", value=0), "bitstream.format_version"),
        (_set("surprise", value=1), "surprise"),
        (_set("bitstream", "surprise", value=1), "bitstream.surprise"),
        (lambda m: m.pop("licence"), "licence"),
        (lambda m: m["files"].pop("golden.json"), "golden.json is not listed"),
        (_set("name", value="../up"), "name"),
        (_set("files", "../up", value={"sha256": "0" * 64, "bytes": 1}), "files"),
        (_set("files", "a/b", value={"sha256": "0" * 64, "bytes": 1}), "files"),
        (_set("files", "extra", value={"sha256": "0" * 64, "bytes": (256 << 20) + 1}), "bytes"),
        (
            lambda m: m["files"].update({f"f{i}": {"sha256": "0" * 64, "bytes": 1} for i in range(13)}),
            "files",
        ),
        (_set("bitstream", "stride", value=0), "stride"),
        (_set("bitstream", "stride", value="8"), "stride"),
        (_set("bitstream", "stride", value=8.0), "stride"),
        (_set("bitstream", "max_side", value=65536), "max_side"),
        (_set("bitstream", "max_pixels", value=2**40), "max_pixels"),
        (_set("bitstream", "codebook_sizes", value=[16, 8, 1]), "codebook_sizes"),
        (_set("bitstream", "codebook_sizes", value=[16, 8, 5]), "codebooks of"),
        (_set("bitstream", "rate_levels", value=[]), "rate_levels"),
        (_set("bitstream", "rate_levels", value=[0, 1]), "rate_levels"),
        (_set("bitstream", "rate_levels", value=[2, 1]), "must not fall"),
        (_set("bitstream", "rate_levels", value=[1, 4]), "more stages"),
        (_set("bitstream", "prior_sha256", value="0" * 64), "prior_sha256"),
        (_set("training", "loss", value=float("nan")), "training|finite|hashed"),
        (_set("training", "note", value="\ud800"), "manifest.json"),
    ],
)
def test_bad_manifests(copy: Path, edit: Callable[[dict[str, Any]], object], reason: str) -> None:
    edit_manifest(copy, edit)
    with pytest.raises(BundleError, match=reason) as caught:
        Bundle.load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 200_000, b" " * ((1 << 20) + 1)])
def test_a_manifest_that_is_no_manifest(copy: Path, data: bytes) -> None:
    (copy / "manifest.json").write_bytes(data)
    with pytest.raises(BundleError, match=r"manifest.json"):
        Bundle.load(copy)


def test_a_place_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.load(tmp_path / "absent")
    with pytest.raises(BundleError, match=r"manifest.json"):
        Bundle.load(tmp_path)
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(BundleError, match="not a readable zip"):
        Bundle.load(tmp_path / "text.zip")


def test_zips_with_no_or_two_or_deep_manifests(tiny_bundle_path: Path, tmp_path: Path) -> None:
    deep = zipped(tiny_bundle_path, tmp_path / "deep.zip", "a/b/")
    up = zipped(tiny_bundle_path, tmp_path / "up.zip", "../x/")
    two = zipped(tiny_bundle_path, tmp_path / "two.zip")
    with zipfile.ZipFile(two, "a") as archive:
        archive.write(tiny_bundle_path / "manifest.json", "again/manifest.json")
    none = tmp_path / "none.zip"
    with zipfile.ZipFile(none, "w") as archive:
        archive.writestr("readme", "nothing")
    for path in (deep, up, two, none):
        with pytest.raises(BundleError, match=r"one manifest.json"):
            Bundle.load(path)


def test_a_zip_bomb_expands_no_further_than_the_manifest_says(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "decoder.onnx").write_bytes(bytes(50 << 20))
    path = zipped(copy, copy.with_suffix(".zip"), compression=zipfile.ZIP_DEFLATED)
    read = 0
    original = zipfile.ZipExtFile.read

    def counting(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        nonlocal read
        data = original(self, n)
        read += len(data)
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counting)
    with pytest.raises(BundleError, match=r"decoder.onnx is longer"):
        Bundle.load(path)
    assert read < 1 << 20


@pytest.fixture(scope="module")
def zip_bytes(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = tmp_path_factory.mktemp("zip") / "tiny.zip"
    return zipped(tiny_bundle_path, target, compression=zipfile.ZIP_DEFLATED).read_bytes()


@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255), cut=st.booleans())
@example(place=0.0, value=1, cut=True)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_damaged_zips_are_bundle_errors_or_the_same_bundle(
    zip_bytes: bytes, tiny_bundle: Bundle, tmp_path: Path, place: float, value: int, cut: bool
) -> None:
    at = int(place * len(zip_bytes))
    damaged = bytearray(zip_bytes[:at] if cut else zip_bytes)
    if not cut:
        damaged[at] ^= value
    path = tmp_path / "damaged.zip"
    path.write_bytes(damaged)
    try:
        loaded = Bundle.load(path)
    except BundleError:
        return
    assert loaded.bundle_id == tiny_bundle.bundle_id  # only a time stamp or the like was hit


def test_a_changed_golden_vector_is_noticed_once_it_is_checked(
    tiny_bundle: Bundle, tiny_parts: dict[str, Any], tmp_path: Path
) -> None:
    """Every hash fits: the vectors guard the machine, not the files."""
    path = write_bundle(tmp_path / "b", **tiny_parts).path
    golden = json.loads((path / "golden.json").read_text())
    payload = golden["entries"][0]["payload"]
    golden["entries"][0]["payload"] = payload[:-1] + ("0" if payload[-1] != "0" else "1")
    data = json.dumps(golden).encode()
    (path / "golden.json").write_bytes(data)
    edit_manifest(
        path,
        _set("files", "golden.json", value={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}),
    )
    with pytest.raises(BundleError, match="golden vector 0"):
        Bundle.load(path).check_golden()
    tiny_bundle.check_golden()


def test_golden_vectors_are_coded_once(tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, calls = Bundle.load(tiny_bundle_path), []
    monkeypatch.setattr(Golden, "check", lambda self, bitstream: calls.append(bitstream))
    loaded.check_golden()
    loaded.check_golden()
    assert calls == [loaded.bitstream]


def test_writing_replaces_a_bundle_and_keeps_its_card(tiny_parts: dict[str, Any], tmp_path: Path) -> None:
    first = write_bundle(tmp_path / "b", **tiny_parts)
    (first.path / "MODEL_CARD.md").write_text("# Tiny")
    second = write_bundle(tmp_path / "b", **tiny_parts | {"name": "second"})
    assert (second.name, second.path) == ("second", first.path)
    assert (second.path / "MODEL_CARD.md").read_text() == "# Tiny"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "no/slash"},
        {"rate_levels": (3, 1)},
        {"rate_levels": (4,)},
        {"geometry": Geometry(8, 70000, 1)},
        {"encoder_onnx": b""},
        {"licence": ""},
        {"training": {"loss": float("inf")}},
    ],
)
def test_parts_that_make_no_bundle_leave_the_old_one(
    tiny_parts: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    old = write_bundle(tmp_path / "b", **tiny_parts)
    with pytest.raises(BundleError, match="do not make a bundle") as caught:
        write_bundle(tmp_path / "b", **tiny_parts | change)
    assert "\n" not in str(caught.value)
    assert Bundle.load(tmp_path / "b").bundle_id == old.bundle_id
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_writing_never_replaces_something_else(tiny_parts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for place in ("thesis", "file"):
        with pytest.raises(BundleError, match="is not a bundle"):
            write_bundle(tmp_path / place, **tiny_parts)
    with pytest.raises(OutputError):
        write_bundle(tmp_path / "file" / "below", **tiny_parts)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    assert write_bundle(tmp_path / "empty", **tiny_parts).name == "tiny"


def test_default_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle_path: Path) -> None:
    checkout = tmp_path / "checkout"
    package = checkout / "ndsc"
    monkeypatch.setattr(bundle_module, "__file__", str(package / "codec" / "bundle.py"))
    monkeypatch.delenv("NDSC_BUNDLE", raising=False)
    with pytest.raises(BundleError, match="set NDSC_BUNDLE"):
        default_bundle_path()
    shutil.copytree(tiny_bundle_path, checkout / "models" / "default")
    with pytest.raises(BundleError, match="set NDSC_BUNDLE"):
        default_bundle_path()  # site-packages may hold anyone's models/default
    (checkout / "pyproject.toml").touch()
    assert default_bundle_path() == checkout / "models" / "default"
    shutil.copytree(tiny_bundle_path, package / "models" / "default")
    assert default_bundle_path() == package / "models" / "default"
    monkeypatch.setenv("NDSC_BUNDLE", "elsewhere.zip")
    assert default_bundle_path() == Path("elsewhere.zip")


@pytest.mark.parametrize("zip_it", [False, True])
def test_a_node_needs_no_decoder(tiny_bundle: Bundle, copy: Path, tmp_path: Path, zip_it: bool) -> None:
    """Everything else is read and verified as ever; what decodes says what is missing."""
    (copy / "decoder.onnx").unlink()
    path = zipped(copy, tmp_path / "encoder.zip") if zip_it else copy
    loaded = Bundle.load(path, "encoder")
    assert (loaded.bundle_id, loaded.bitstream_id) == (tiny_bundle.bundle_id, tiny_bundle.bitstream_id)
    assert set(loaded.files) == set(FILES) - {"decoder.onnx"}
    with pytest.raises(BundleError, match="loaded without its decoder"):
        FrameDecoder(loaded)
    with pytest.raises(BundleError, match=r"decoder\.onnx"):
        Bundle.load(path)


@pytest.mark.parametrize("name", sorted(set(FILES) - {"decoder.onnx", "manifest.json"}))
def test_what_a_node_needs_is_verified(copy: Path, name: str) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=rf"{name} is not the file the manifest lists"):
        Bundle.load(copy, "encoder")


def test_a_manifest_that_lists_itself_never_fits(tiny_bundle: Bundle, copy: Path) -> None:
    itself = {"sha256": hashlib.sha256(tiny_bundle.files["manifest.json"]).hexdigest(), "bytes": 1000}
    edit_manifest(copy, lambda content: content["files"].update({"manifest.json": itself}))
    with pytest.raises(BundleError, match=r"manifest\.json is not the file the manifest lists"):
        Bundle.load(copy)
