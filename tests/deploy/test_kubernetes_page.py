"""docs/operate/kubernetes.md: what it applies renders, its certificates fit, its example holds."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Final

import pytest
import yaml
from cryptography import x509

from encoder_service.settings import EncoderSettings
from ndsc.service.settings import load_settings
from ndsc.service.tls import CertificateFiles, load_certificates
from tests.deploy.manifests import (
    KUBERNETES,
    KUSTOMIZATIONS,
    OLDEST,
    TO_BE_MADE,
    Workload,
    kubectl,
    named,
    objects,
    ours,
    validate,
)
from tests.e2e.conftest import ROOT
from tests.pages import blocks, run_ndsc

PAGE: Final = (ROOT / "docs" / "operate" / "kubernetes.md").read_text()


def test_the_page_names_the_oldest_version() -> None:
    assert f"Kubernetes {OLDEST} or newer" in PAGE


def commands() -> list[list[str]]:
    lines = "".join(blocks(PAGE, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def test_what_the_page_applies_renders() -> None:
    applied = [words[words.index("-k") + 1] for words in commands() if "-k" in words]
    assert {f"deploy/kubernetes/{path}" for path in ("overlays/demo", "overlays/tls")} <= set(applied)
    for path in applied:
        if path != "site":  # its files are the next test's
            assert objects(ROOT / path)
    for words in commands():
        if words[0] == "kubectl" and "-f" in words:
            assert (ROOT / words[words.index("-f") + 1]).is_file()
        if words[0] == "kubectl":
            assert words[1:3] == ["--namespace", "ndsc"] or "namespace" in words[1:3], words


def test_the_page_names_what_is_rendered() -> None:
    names = {
        f"{item['kind'].lower()}/{item['metadata']['name']}"
        for path in KUSTOMIZATIONS
        for item in objects(KUBERNETES / path)
    }
    told = re.findall(r"\b((?:statefulset|deployment|service|networkpolicy)/[a-z-]+)", PAGE)
    assert told
    assert set(told) <= names


def test_an_overlay_of_ones_own(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "deploy" / "kubernetes")
    site = tmp_path / "site"
    site.mkdir()
    (example,) = blocks(PAGE, "yaml")
    (site / "kustomization.yaml").write_text(example)
    made = objects(site)
    for item in made:
        validate(json.dumps(item), OLDEST)
    decoder = Workload(named(made, "StatefulSet", "decoder"))
    assert decoder.repository == "registry.example/ndsc/decoder-cuda"
    assert decoder.container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert decoder.item["spec"]["replicas"] == 2
    assert "NDSC_DECODER_TLS_CA" in decoder.environment
    assert Workload(named(made, "Deployment", "viewer")).environment["NDSC_VIEWER_RIG"] == "yard"


def test_secrets_as_the_page_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    secrets: dict[str, Path] = {}
    for program, *words in commands():
        if program == "ndsc" and words[0] == "certificates":
            run_ndsc(words)
        elif program == "ndsc":
            with monkeypatch.context() as there:
                there.chdir(tmp_path / "pki" / "left")
                camera = load_settings(EncoderSettings, words[2:])
                certificates = camera.certificate_files()
                assert certificates is not None
                load_certificates(certificates).require_identity(camera.identity)
        elif program == "kubectl" and "secret" in words:
            name = words[words.index("generic") + 1]
            folder = tmp_path / name
            folder.mkdir()
            for word in words:
                if word.startswith("--from-file="):
                    key, _, file = word.removeprefix("--from-file=").partition("=")
                    shutil.copy(file, folder / key)
            secrets[name] = folder
            kubectl(*(re.sub(r"=pki/", f"={tmp_path}/pki/", word) for word in words), "--dry-run=client")
    assert secrets.keys() == TO_BE_MADE
    for workload in ours(objects(KUBERNETES / "overlays/tls")):
        files = workload.settings(monkeypatch).certificate_files()
        assert files is not None
        assert files.certificate is not None
        assert files.key is not None
        folder = secrets[f"{workload.name}-tls"]
        here = [folder / path.name for path in (files.ca, files.certificate, files.key)]
        own = load_certificates(CertificateFiles(*here)).own
        assert own is not None
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert issued_by_cert_manager(workload.name) == {
            "dnsNames": names.get_values_for_type(x509.DNSName),
            "uris": names.get_values_for_type(x509.UniformResourceIdentifier),
        }
    viewer = Workload(named(objects(KUBERNETES / "overlays/tls"), "Deployment", "viewer"))
    hosts = issued_by_cert_manager("decoder")["dnsNames"]
    assert "*." + viewer.environment["NDSC_VIEWER_DECODER_NAME"].partition(".")[2] in hosts
    assert "localhost" in hosts  # the decoder's own probes


def issued_by_cert_manager(name: str) -> dict[str, list[str]]:
    """Names in what deploy/kubernetes/examples/cert-manager.yaml asks for; its schemas come in no package."""
    items = list(yaml.safe_load_all((KUBERNETES / "examples" / "cert-manager.yaml").read_text()))
    spec = named(items, "Certificate", name)["spec"]
    assert spec["secretName"] == f"{name}-tls"
    return {kind: spec.get(kind, []) for kind in ("dnsNames", "uris")}
