"""The specification's reader of bundles takes and refuses what the codec's does."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from ndsc.codec import errors
from ndsc.codec.bundle import Bundle
from tests.golden import spec_bundle
from tests.golden.agreement import refusal
from tests.golden.spec_bundle import read_bundle
from tests.golden.spec_errors import BundleError
from tests.golden.spec_json import canonical, parsed


def test_a_zipped_bundle_is_the_same(
    written: dict[str, Bundle], bundles: dict[str, spec_bundle.Bundle], tmp_path: Path
) -> None:
    for folder in ("", "a-bundle/"):
        path = tmp_path / f"{len(folder)}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in written["static"].path.iterdir():
                archive.write(file, folder + file.name)
        assert read_bundle(path) == bundles["static"]
        assert Bundle.load(path).bundle_id == bundles["static"].bundle_id


@pytest.mark.parametrize("folders", [["a/b/"], ["", "a/"], ["a/", "b/"], []])
def test_zips_that_are_no_bundle(folders: list[str], written: dict[str, Bundle], tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for folder in folders:
            for file in written["static"].path.iterdir():
                archive.write(file, folder + file.name)
    assert refusal(read_bundle, path) == refusal(Bundle.load, path) == "BundleError"


Change = Callable[[dict[str, Any], dict[str, Any]], object]
"""Of the manifest's content and that of prior.json."""


def _regroup(scale: int, *phases: list[int]) -> Change:
    def change(_: dict[str, Any], prior: dict[str, Any]) -> None:
        prior["stages"][2]["groups"] = [{"scale": scale, "phases": list(phases)}]

    return change


def _version(manifest: dict[str, Any], version: int) -> None:
    manifest["format_version"] = manifest["bitstream"]["format_version"] = version


BAD_STATIC: Final[dict[str, Change]] = {
    "an unknown version": lambda m, p: _version(m, 3),
    "version 0": lambda m, p: _version(m, 0),
    "version 2, which has no static tables": lambda m, p: _version(m, 2),
    "another version of the bitstream": lambda m, p: m["bitstream"].update(format_version=2),
    "an unknown key": lambda m, p: m.update(more=1),
    "an unknown key of the bitstream": lambda m, p: m["bitstream"].update(more=1),
    "an unknown key of the prior": lambda m, p: p.update(more=1),
    "a missing key": lambda m, p: m.pop("licence"),
    "a fraction": lambda m, p: m["bitstream"].update(stride=8.0),
    "text for an integer": lambda m, p: m["bitstream"].update(stride="8"),
    "true for an integer": lambda m, p: m["bitstream"].update(stride=True),
    "a stride too large": lambda m, p: m["bitstream"].update(stride=257),
    "rate levels that fall": lambda m, p: m["bitstream"].update(rate_levels=[1, 3, 2]),
    "a rate level of too many stages": lambda m, p: m["bitstream"].update(rate_levels=[1, 2, 4]),
    "a rate level of no stage": lambda m, p: m["bitstream"].update(rate_levels=[0, 1, 2]),
    "no rate level": lambda m, p: m["bitstream"].update(rate_levels=[]),
    "another codebook size": lambda m, p: m["bitstream"].update(codebook_sizes=[16, 8, 5]),
    "a side too large": lambda m, p: m["bitstream"].update(max_side=65536),
    "a bad name": lambda m, p: m.update(name="-a"),
    "no licence": lambda m, p: m.update(licence=""),
    "training that is no object": lambda m, p: m.update(training=[]),
    "a file of another hash": lambda m, p: m["files"]["golden.json"].update(sha256="0" * 64),
    "a file of another size": lambda m, p: m["files"]["golden.json"].update(bytes=1),
    "a file that is missing": lambda m, p: m["files"].pop("golden.json"),
    "hashes in capitals": lambda m, p: m["files"]["encoder.onnx"].update(sha256="A" * 64),
    "another kind of prior": lambda m, p: p.update(kind="table"),
    "frequencies that do not add up": lambda m, p: p["frequencies"][0].append(1),
    "a frequency of 0": lambda m, p: p["frequencies"].__setitem__(2, [65536, 0, 0, 0]),
    "17 bits": lambda m, p: p.update(frequency_bits=17),
}
BAD_CONTEXT: Final[dict[str, Change]] = {
    "another network": lambda m, p: p.update(network_sha256="0" * 64),
    "no network": lambda m, p: m["files"].pop("prior.onnx"),
    "the other kind": lambda m, p: p.update(kind="static-table"),
    "a shift too large": lambda m, p: p.update(logit_shift=9),
    "255 weights": lambda m, p: p["weights"].pop(),
    "weights that rise": lambda m, p: p["weights"].__setitem__(255, 65536),
    "a smaller first weight": lambda m, p: p.update(weights=[65535] * 256),
    "low bits that do not split": lambda m, p: p["stages"][2].update(low_bits=1),
    "a high digit of one value": lambda m, p: p["stages"][0].update(low_bits=4),
    "an index twice in order": lambda m, p: p["stages"][2].update(order=[0, 1, 1]),
    "a short table": lambda m, p: p["stages"][0]["groups"][0]["table"][7].pop(),
    "seven bands": lambda m, p: p["stages"][0]["groups"][0]["table"].pop(),
    "a logit too large": lambda m, p: p["stages"][0]["groups"][0]["table"][0].__setitem__(0, 4097),
    "a group fewer": lambda m, p: p["stages"][0]["groups"].pop(),
    "the fine scale first": lambda m, p: p["stages"][0]["groups"].reverse(),
    "a phase twice": _regroup(0, [0, 0], [0, 1], [1, 0], [1, 0]),
    "the coarse scale alone": _regroup(1, [0, 0], [0, 1], [1, 0], [1, 1]),
    "a group without a network": lambda m, p: p["stages"][2].update(
        groups=[{"scale": 0, "phases": [[0, 0], [0, 1]]}, {"scale": 0, "phases": [[1, 0], [1, 1]]}]
    ),
    "a network without a group": lambda m, p: p["stages"][2]["groups"][0].update(table=[[0] * 3] * 8),
}
BAD_PLANES: Final[dict[str, Change]] = {
    "version 1, which has no planes": lambda m, p: _version(m, 1),
    "another network of planes": lambda m, p: p.update(network_sha256="0" * 64),
    "no network of planes": lambda m, p: m["files"].pop("prior.onnx"),
    "a plane more": lambda m, p: p.update(planes=4),
    "a plane fewer": lambda m, p: p.update(planes=2),
    "another bound": lambda m, p: p.update(bound=3),
    "a level of fewer planes": lambda m, p: m["bitstream"].update(rate_levels=[2, 3, 3]),
    "a level more": lambda m, p: m["bitstream"].update(rate_levels=[3, 3, 3, 3]),
    "a level fewer": lambda m, p: p["first"].pop(),
    "a mean too large": lambda m, p: p["first"][0]["mean"].__setitem__(0, 9),
    "a mean fewer": lambda m, p: p["first"][1]["mean"].pop(),
    "a scale that has no table": lambda m, p: p["first"][0]["scale"].__setitem__(2, 4),
    "a negative scale": lambda m, p: p["first"][0]["scale"].__setitem__(2, -1),
    "a table too few": lambda m, p: p["tables"].pop(),
    "a frequency of 0 in a table": lambda m, p: p["tables"].__setitem__(0, [65536, *[0] * 8]),
    "a table that does not add up": lambda m, p: p["tables"][3].__setitem__(4, 1),
    "a short table of a scale": lambda m, p: p["tables"].__setitem__(0, [16384] * 4),
    "a mean shift too large": lambda m, p: p.update(mean_shift=17),
    "a negative scale shift": lambda m, p: p.update(scale_shift=-1),
    "an unknown key of planes": lambda m, p: p.update(more=1),
}
GOOD: Final[dict[str, Change]] = {
    "no change": lambda m, p: None,
    "null for a table left out": lambda m, p: [
        group.setdefault("table", None) for stage in p.get("stages", []) for group in stage["groups"]
    ],
    "other facts for people": lambda m, p: m.update(training={"a": [1e-5, "é\n", None]}, licence="MIT"),
}


def rewritten(source: Path, target: Path, change: Change) -> Path:
    """A copy of a bundle with other content, and hashes of prior.json that fit it."""
    manifest, prior = (json.loads((source / f"{name}.json").read_bytes()) for name in ("manifest", "prior"))
    change(manifest, prior)
    data = json.dumps(prior).encode()
    manifest["files"]["prior.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest["bitstream"]["prior_sha256"] = manifest["files"]["prior.json"]["sha256"]
    shutil.copytree(source, target)
    (target / "prior.json").write_bytes(data)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


@pytest.mark.parametrize(
    ("name", "what", "refused"),
    [("static", what, True) for what in BAD_STATIC]
    + [("context", what, True) for what in BAD_CONTEXT]
    + [("planes", what, True) for what in BAD_PLANES]
    + [(name, what, False) for name in ("static", "context", "planes") for what in GOOD],
)
def test_both_readers_refuse_the_same_bundles(
    name: str, what: str, refused: bool, written: dict[str, Bundle], tmp_path: Path
) -> None:
    path = rewritten(written[name].path, tmp_path / "b", (BAD_STATIC | BAD_CONTEXT | BAD_PLANES | GOOD)[what])
    kind = "BundleError" if refused else ""
    assert refusal(read_bundle, path) == kind
    assert refusal(Bundle.load, path) == kind
    if not refused:
        ours, theirs = read_bundle(path), Bundle.load(path)
        assert (ours.bitstream_id, ours.bundle_id) == (theirs.bitstream_id, theirs.bundle_id)


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("manifest.json", b"\xef\xbb\xbf{}"),
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b" " * (1 << 20) + b"{}"),
        ("prior.json", b"{}"),
        ("golden.json", b""),
        ("golden.json", None),
    ],
)
def test_damaged_files(file: str, data: bytes | None, written: dict[str, Bundle], tmp_path: Path) -> None:
    path = rewritten(written["static"].path, tmp_path / "b", GOOD["no change"])
    if data is None:
        (path / file).unlink()
    else:
        (path / file).write_bytes(data)
    assert refusal(read_bundle, path) == refusal(Bundle.load, path) == "BundleError"


@pytest.mark.parametrize(
    ("name", "grid"), [("entries", [257, 1]), ("damaged", [1, 257]), ("entries", [256, 66])]
)
def test_golden_vectors_of_no_frame(
    name: str, grid: list[int], written: dict[str, Bundle], tmp_path: Path
) -> None:
    """2048 a side and 2^20 pixels at stride 8: the smallest frames are 2049 a side, and 2041 × 521 pixels."""
    path = rewritten(written["static"].path, tmp_path / "b", GOOD["no change"])
    golden = json.loads((path / "golden.json").read_bytes())
    golden[name][0]["grid"] = grid
    with_golden(path, json.dumps(golden).encode())
    with pytest.raises(BundleError, match="no frame"):
        read_bundle(path)
    with pytest.raises(errors.BundleError, match="no frame"):
        Bundle.load(path).check_golden()


@pytest.mark.parametrize("spelling", [str.upper, lambda s: f" {s[:2]}\t\r\n\v\f {s[2:]} "])
@pytest.mark.parametrize("name", ["entries", "damaged"])
def test_spellings_of_a_payload(
    name: str, spelling: Callable[[str], str], written: dict[str, Bundle], tmp_path: Path
) -> None:
    path = shutil.copytree(written["static"].path, tmp_path / "b")
    golden = json.loads((path / "golden.json").read_bytes())
    vectors = [vector for vector in golden[name] if re.search("[a-f]", vector["payload"])]
    vectors[0]["payload"] = spelling(vectors[0]["payload"])
    sound = read_bundle(path)
    with_golden(path, json.dumps(golden).encode())
    spelt = read_bundle(path)
    assert (spelt.entries, spelt.damaged) == (sound.entries, sound.damaged)
    Bundle.load(path).check_golden()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("entries", "payload", "0 a00000000000000"),
        ("entries", "payload", "0a0"),
        ("damaged", "payload", "0a\u00a00a"),
        ("damaged", "payload", "0g"),
        ("entries", "indices", "AAA"),
        ("entries", "indices", "AA A="),
        ("entries", "rate_level", 3),
        ("damaged", "rate_level", 3),
        ("damaged", "damage", "\ud800"),
        ("damaged", "damage", "é" * 101),
        ("damaged", "error", "BundleError"),
    ],
)
def test_golden_vectors_that_are_none(
    name: str, key: str, value: object, written: dict[str, Bundle], tmp_path: Path
) -> None:
    path = shutil.copytree(written["static"].path, tmp_path / "b")
    golden = json.loads((path / "golden.json").read_bytes())
    golden[name][0][key] = value
    with_golden(path, json.dumps(golden).encode())
    assert refusal(read_bundle, path) == "BundleError"
    assert refusal(lambda: Bundle.load(path).check_golden()) == "BundleError"


@pytest.mark.parametrize(("more", "kind"), [(0, ""), (1, "BundleError")])
def test_the_longest_golden_json(more: int, kind: str, written: dict[str, Bundle], tmp_path: Path) -> None:
    path = rewritten(written["static"].path, tmp_path / "b", GOOD["no change"])
    with_golden(path, (path / "golden.json").read_bytes().ljust((1 << 23) + more))
    assert refusal(read_bundle, path) == refusal(Bundle.load, path) == kind


def with_golden(path: Path, data: bytes) -> None:
    """Another golden.json, and a manifest that lists it."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["files"]["golden.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (path / "golden.json").write_bytes(data)
    (path / "manifest.json").write_text(json.dumps(manifest))


# Below `training`; the canonical spelling is what the bundle id is made from.

TRAINING: Final = {
    "fractions": ('{"a":[1E2,1e0,-0.0,0.00001,1e22]}', '{"a":[100.0,1.0,-0.0,1e-05,1e+22]}'),
    "a fraction beside 0": ('{"a":1e-400}', '{"a":0.0}'),
    "the largest fraction": ('{"a":1.7976931348623157e308}', '{"a":1.7976931348623157e+308}'),
    "integers": ('{"a":[-0,18446744073709551617]}', '{"a":[0,18446744073709551617]}'),
    "the longest integer": (f'{{"a":{"9" * 4300}}}', f'{{"a":{"9" * 4300}}}'),
    "escapes": (r'{"a":"\u001F\u000A\u0009\/\u007f\u00E9"}', r'{"a":"\u001f\n\t/' + '\x7fé"}'),
    "a whole pair": (r'{"a":"\uD83D\uDE00"}', '{"a":"\U0001f600"}'),
    "the deepest": ('{"a":' * 199 + "1" + "}" * 199, '{"a":' * 199 + "1" + "}" * 199),
    "keys by code point": ('{"é":1,"a":2,"Z":3}', '{"Z":3,"a":2,"é":1}'),
    "a key twice": ('{"a":1,"a":2}', '{"a":2}'),
}


def with_training(path: Path, training: str) -> Path:
    """The bundle with `training` in this very spelling."""
    manifest = json.loads((path / "manifest.json").read_bytes()) | {"training": "here"}
    (path / "manifest.json").write_text(json.dumps(manifest).replace('"here"', training))
    return path


@pytest.mark.parametrize("what", TRAINING)
def test_what_training_may_hold(what: str, written: dict[str, Bundle], tmp_path: Path) -> None:
    spelt, expected = TRAINING[what]
    assert canonical(parsed(spelt.encode())) == expected.encode()
    path = rewritten(written["static"].path, tmp_path / "b", GOOD["no change"])
    with_training(path, spelt)
    assert read_bundle(path).bundle_id == Bundle.load(path).bundle_id


@pytest.mark.parametrize(
    "value",
    [
        *("1e400", "-1E400", "1.7976931348623159e308", "NaN", "-Infinity"),
        *(r'"\ud800"', r'"\uDFFF"', r'"\ud800\u0041"', '"\t"', r'"\x41"'),
        *("01", "+1", ".5", "1.", "9" * 4301),
    ],
)
def test_what_training_may_not_hold(value: str, written: dict[str, Bundle], tmp_path: Path) -> None:
    path = rewritten(written["static"].path, tmp_path / "b", GOOD["no change"])
    with_training(path, f'{{"a":{value}}}')
    assert refusal(read_bundle, path) == refusal(Bundle.load, path) == "BundleError"


def test_the_last_of_repeated_keys_counts(written: dict[str, Bundle], tmp_path: Path) -> None:
    path = rewritten(written["static"].path, tmp_path / "b", GOOD["no change"])
    sound, ids = (path / "manifest.json").read_text(), set()
    for change in ('{"opset": 1001, ', '{"opset": 7, ', '{"bitstream": 0, '):
        (path / "manifest.json").write_text(change + sound[1:])
        ids |= {read_bundle(path).bundle_id, Bundle.load(path).bundle_id}
    assert len(ids) == 1
    (path / "manifest.json").write_text(sound[:-1] + ', "opset": 1001}')
    assert refusal(read_bundle, path) == refusal(Bundle.load, path) == "BundleError"


def test_two_hashes_of_the_prior(written: dict[str, Bundle], tmp_path: Path) -> None:
    path = rewritten(written["static"].path, tmp_path / "b", GOOD["no change"])
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["bitstream"]["prior_sha256"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert refusal(read_bundle, path) == refusal(Bundle.load, path) == "BundleError"


def test_a_reader_of_indices_needs_no_encoder(
    written: dict[str, Bundle], bundles: dict[str, spec_bundle.Bundle], tmp_path: Path
) -> None:
    path = rewritten(written["static"].path, tmp_path / "b", GOOD["no change"])
    for name in ("encoder.onnx", "decoder.onnx"):
        (path / name).unlink()
    assert read_bundle(path).entries == bundles["static"].entries
