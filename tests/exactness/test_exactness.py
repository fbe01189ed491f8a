"""The latent prior comes to the same bits in every configuration of this process; if not, the check sees it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ndsc.codec import onnx_graph
from ndsc.codec.bitstream import encode_payload
from ndsc.codec.bundle import Bundle
from ndsc.codec.context import ContextPrior
from ndsc.codec.prior import LatentPrior
from ndsc.codec.scalar_prior import ScalarPrior
from tests.exactness import __main__ as command
from tests.exactness import configurations, environments, pictures, reference
from tests.exactness.batches import Batches, codec_session
from tests.exactness.comparison import Outcome, compare
from tests.exactness.configurations import CONFIGURATIONS, Checked, NotAtHandError, Result, Setting
from tests.exactness.interpreter import Interpreter
from tests.exactness.reference import LARGE, ODD, SMALL, Reference, ReferenceSetError
from tests.exactness.sessions import LEVELS, Feeds, Session, networked_prior, with_sessions

MODEL = environments.ROOT / "models" / "default"
FRAMES, LARGES = 48, 1
"""Six small frames of each of eight levels, two of each kind."""


@pytest.fixture(scope="module", params=["released", "context"])
def bundle(request: pytest.FixtureRequest, context_bundle: Bundle) -> Bundle:
    """A prior of planes as it is released; a small one of residual stages."""
    return Bundle.load(MODEL) if request.param == "released" else context_bundle


@pytest.fixture(scope="module")
def references(bundle: Bundle) -> Reference:
    large = pictures.synthetic(large=True)
    return reference.make(bundle, pictures.synthetic(), large, frames=FRAMES, larges=LARGES)


@pytest.fixture
def setting(bundle: Bundle, references: Reference, tmp_path: Path) -> Setting:
    return Setting(bundle, references, tmp_path, 0, print)


@pytest.mark.parametrize(
    "name",
    [*(f"onnxruntime-{level}-2" for level in LEVELS), "torch"],
)
def test_a_configuration_comes_to_the_same_bits(name: str, setting: Setting) -> None:
    result = configurations.run(name, CONFIGURATIONS[name], setting)
    assert (result.status, result.mismatches, result.first) == ("exact", 0, None)
    assert (result.frames["16x32"], result.frames["47x156"]) == (FRAMES, LARGES)
    assert result.encoded == sum(result.frames.values()) == len(setting.reference.entries)


@pytest.mark.parametrize("size", configurations.BATCHES)
def test_a_batch_gives_the_sums_of_single_runs(size: int, setting: Setting) -> None:
    result = configurations.run("batch", CONFIGURATIONS[f"batch-{size}"], setting)
    assert (result.status, result.first) == ("exact", None)
    assert result.frames["16x32"] == FRAMES


def test_the_python_coder_comes_to_the_same_bits(setting: Setting) -> None:
    result = configurations.run("coder", CONFIGURATIONS["python-coder"], setting)
    assert (result.status, result.first) == ("exact", None)
    assert sum(result.frames.values()) == len(setting.reference.entries)


def test_the_reference_set_is_mixed(bundle: Bundle, references: Reference, tmp_path: Path) -> None:
    small = references.of(SMALL)
    assert len({(entry.kind, entry.rate_level) for entry in small}) == 3 * bundle.rate_level_count
    assert {entry.grid for entry in references.entries} == {SMALL, LARGE, *ODD}
    assert references.summary()["different"] == len(references.entries)
    references.save(tmp_path / "set.npz")
    back = Reference.load(tmp_path / "set.npz")
    assert back.bitstream_id == references.bitstream_id
    for one, other in zip(back.entries, references.entries, strict=True):
        assert np.array_equal(one.indices, other.indices)
        assert (one.kind, one.rate_level, one.payload) == (other.kind, other.rate_level, other.payload)
    whole = (tmp_path / "set.npz").read_bytes()
    for damaged in (b"", b"nothing", whole[: len(whole) // 2]):
        (tmp_path / "set.npz").write_bytes(damaged)
        with pytest.raises(ReferenceSetError):
            Reference.load(tmp_path / "set.npz")


class _Keeping(Interpreter):
    """Keeps what it was last fed."""

    fed: Feeds

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        self.fed = feeds
        return super().run(feeds)


def one_weight_changed(bundle: Bundle, references: Reference) -> LatentPrior:
    """The bundle's prior with one weight changed by one unit: of the first stage's last pass, between a channel
    that is active and a sum that counts, so that it does not hang on the weights whether it shows.
    """
    prior = networked_prior(bundle.bitstream)
    name = prior.passes(1)[-1]
    made: dict[str, _Keeping] = {}

    def keeping(onnx_bytes: bytes, name: str) -> Session:
        made[name] = _Keeping(onnx_bytes, name)
        return made[name]

    # At the highest level every plane counts; a codec may leave planes out at lower ones.
    entry = max(references.of(SMALL), key=lambda one: one.rate_level)
    encode_payload(entry.indices, entry.rate_level, with_sessions(bundle.bitstream, keeping))
    values = made[name].values(made[name].fed)
    graph = onnx_graph.read(prior.network, "prior.onnx")
    head = next(node for node in graph.nodes if f"{name}.sums" in node.outputs)
    sums = values[f"{name}.sums"]
    if isinstance(prior, ContextPrior):
        of_sum = int(sums.mean((0, 2, 3))[: prior.stages[0].high_size].argmax())
    else:  # means come before scales; of the means one that is not always the same
        of_sum = int(sums[:, : sums.shape[1] // 2].std((0, 2, 3)).argmax())
    channel = int(values[head.inputs[0]].mean((0, 2, 3)).argmax())

    model = onnx.load_from_string(prior.network)
    tensor = next(one for one in model.graph.initializer if one.name == head.inputs[1])
    weight = numpy_helper.to_array(tensor).copy()
    middle = weight.shape[-1] // 2
    weight[of_sum, channel, middle, middle] += 1 if weight[of_sum, channel, middle, middle] <= 0 else -1
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    network = model.SerializeToString()
    facts = json.loads(prior.files()["prior.json"]) | {"network_sha256": hashlib.sha256(network).hexdigest()}
    read = ContextPrior.from_files if isinstance(prior, ContextPrior) else ScalarPrior
    return read(json.dumps(facts).encode(), network)


def test_one_weight_changed_by_one_unit_is_found(bundle: Bundle, references: Reference) -> None:
    changed = dataclasses.replace(bundle.bitstream, prior=one_weight_changed(bundle, references))
    small = references.part(references.of(SMALL))
    assert compare(small, bundle.bitstream).mismatches == 0
    outcome = compare(small, changed)
    assert outcome.mismatches >= FRAMES // 4
    assert outcome.first


class _Wrong:
    """The codec's session, and something done to its sums."""

    def __init__(self, onnx_bytes: bytes, name: str) -> None:
        self._session = codec_session(onnx_bytes, name)

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        return self.spoil(self._session.run(feeds), next(iter(feeds.values())).shape[0])

    def spoil(self, sums: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
        raise NotImplementedError


class _Louder(_Wrong):
    def spoil(self, sums: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
        sums[:, 0] += 1 << 12  # of the first logit or mean, by many of its steps
        return sums


class _Swapped(_Wrong):
    """The last frame first: right for one frame."""

    def spoil(self, sums: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
        by_phase = sums.reshape(-1, frames, *sums.shape[1:])
        return np.ascontiguousarray(by_phase[:, ::-1]).reshape(sums.shape)


def test_a_session_that_computes_otherwise_is_found(bundle: Bundle, references: Reference) -> None:
    outcome = compare(references.part(references.of(SMALL)), with_sessions(bundle.bitstream, _Louder))
    assert outcome.mismatches == FRAMES


def test_a_batch_in_another_order_is_found(bundle: Bundle, references: Reference) -> None:
    last = bundle.rate_level_count - 1
    small = [entry for entry in references.of(SMALL) if entry.rate_level == last]
    outcome = Batches(bundle.bitstream, 2, _Swapped).compare(references.part(small))
    assert outcome.mismatches == outcome.total == len(small)
    assert outcome.first
    assert "in a batch of 2" in outcome.first


def test_the_interpreter_refuses_what_it_does_not_know() -> None:
    info = helper.make_tensor_value_info("p.x", onnx.TensorProto.FLOAT, [1, 1, 4, 4])
    out = helper.make_tensor_value_info("p.sums", onnx.TensorProto.FLOAT, None)
    kernel = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "k")
    for node in (
        helper.make_node("Relu", ["p.x"], ["p.sums"]),
        helper.make_node("Conv", ["p.x", "k"], ["p.sums"], dilations=[2, 2]),
    ):
        graph = helper.make_graph([node], "g", [info], [out], [kernel])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        with pytest.raises(NotImplementedError, match=node.op_type):
            Interpreter(model.SerializeToString(), "p")


def child(path: Path, bundle: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.exactness.child", str(path), str(bundle)]
    return subprocess.run(argv, cwd=environments.ROOT, capture_output=True, text=True, check=False)


def test_a_child_process_checks_a_set(
    bundle: Bundle, references: Reference, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    sound = references.of(SMALL)[:3]
    other = sound[1].indices.copy()
    other[0, 5, 5] ^= 1
    path = tmp_path / "set.npz"
    references.part((sound[0], dataclasses.replace(sound[1], indices=other), sound[2])).save(path)
    done = child(path, bundle.path)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 1
    assert (found["outcome"]["frames"], found["outcome"]["mismatches"]) == ({"16x32": 3}, 1)
    assert found["outcome"]["first"].startswith("frame 1 (drawn, rate level 0, 16x32): other indices")
    assert found["machine"]["versions"]["onnxruntime"] == onnxruntime.__version__

    done = child(path, tiny_bundle_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "bitstream id" in done.stderr


def test_what_does_not_run_never_passes(setting: Setting) -> None:
    def raises(error: Exception) -> Result:
        def check(setting: Setting) -> Checked:
            raise error

        return configurations.run("it", check, setting)

    def finds(outcome: Outcome) -> Result:
        return configurations.run("it", lambda setting: Checked(outcome, {}), setting)

    assert command.failures([finds(Outcome({"1x1": 1}))], None) == []
    assert command.failures([finds(Outcome())], None) == ["it"]
    assert command.failures([finds(Outcome({"1x1": 2}, mismatches=1))], None) == ["it"]
    assert command.failures([raises(OSError("no"))], None) == ["it"]
    absent = raises(NotAtHandError("no such thing"))
    assert absent.status == "not at hand"
    assert command.failures([absent], None) == []
    assert command.failures([absent], ["it"]) == ["it"]


def test_the_command_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    output = tmp_path / "made" / "report.json"
    counts = ["--bundle", str(MODEL), "--frames", "3", "--large", "0", "-o", str(output)]
    assert command.main([*counts, "--configurations", "default"]) == 0
    report = json.loads(output.read_text())
    assert report["passed"] is True
    assert report["configurations"][0]["frames"]["16x32"] == 3
    assert Reference.load(output.with_suffix(".npz")).bitstream_id.hex() == report["bitstream_id"]

    assert command.main([*counts, "--configurations", "default", "cuda"]) == 1
    report = json.loads(output.read_text())
    assert report["passed"] is False
    assert [one["status"] for one in report["configurations"]] == ["exact", "not at hand"]


def test_the_command_refuses_a_bundle_without_networks(
    tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--bundle", str(tiny_bundle_path), "-o", str(tmp_path / "report.json")]) == 2
    assert "no networks" in capsys.readouterr().err


def test_the_oldest_versions_are_those_of_pyproject() -> None:
    stated = (environments.ROOT / "pyproject.toml").read_text()
    for pin in environments.oldest():
        name, _, version = pin.partition("==")
        assert version.count(".") == 2
        assert f'"{name}>={version.removesuffix(".0")}"' in stated


def test_a_configuration_is_named_by_its_start() -> None:
    assert configurations.named(["onnxruntime", "default"])[0] == "default"
    assert len(configurations.named(["onnxruntime"])) == 8
    with pytest.raises(ValueError, match="no configuration 'onnx'"):
        configurations.named(["onnx"])
