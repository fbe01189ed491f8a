"""deploy/kubernetes as kubectl renders it: schemas, what no schema knows, and docs/operate/kubernetes.md.

No cluster takes part: what an API server would refuse is found, what a controller does is not.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import typer
import yaml
from cryptography import x509
from typer.testing import CliRunner

from decoder_service.settings import DecoderSettings
from encoder_service.settings import EncoderSettings
from ndsc.cli import app
from ndsc.service.settings import load_settings, split_address
from ndsc.service.tls import CertificateFiles, load_certificates
from ndsc.viewer.settings import ViewerSettings
from tests.e2e.conftest import ROOT

Object = dict[str, Any]
Settings = DecoderSettings | EncoderSettings | ViewerSettings

KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
KUSTOMIZATIONS: Final = ("base", "overlays/demo", "overlays/gpu", "overlays/tls")
PAGE: Final = (ROOT / "docs" / "operate" / "kubernetes.md").read_text()
OLDEST: Final = "1.27"
"""Of Kubernetes, that the page names: the first whose gRPC probes are stable."""
SERVICES: Final[Mapping[str, type[Settings]]] = {
    "ndsc/decoder": DecoderSettings,
    "ndsc/decoder-cuda": DecoderSettings,
    "ndsc/encoder": EncoderSettings,
    "ndsc/viewer": ViewerSettings,
}
TO_BE_MADE: Final = frozenset({"decoder-tls", "viewer-tls"})
"""Secrets that the page tells an operator to make."""


def kubectl(*arguments: str) -> str:
    """What kubectl prints, without a cluster."""
    command = [str(Path(sys.executable).parent / "kubectl"), *arguments]
    environment = {"PATH": os.environ["PATH"], "KUBECONFIG": os.devnull}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _objects(path: Path) -> list[Object]:
    return list(yaml.load_all(kubectl("kustomize", str(path)), yaml.CSafeLoader))


def objects(path: Path) -> list[Object]:
    """What `kubectl apply -k path` sends."""
    return deepcopy(_objects(path))


@pytest.fixture(params=KUSTOMIZATIONS)
def rendered(request: pytest.FixtureRequest) -> list[Object]:
    return objects(KUBERNETES / str(request.param))


def of_kind(rendered: list[Object], *kinds: str) -> list[Object]:
    return [item for item in rendered if item["kind"] in kinds]


def named(rendered: list[Object], kind: str, name: str) -> Object:
    (found,) = [item for item in of_kind(rendered, kind) if item["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Workload:
    """What starts pods, all of one container."""

    item: Object

    @property
    def name(self) -> str:
        return str(self.item["metadata"]["name"])

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.item["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def pod(self) -> Object:
        pod: Object = self.item["spec"]["template"]["spec"]
        return pod

    @property
    def container(self) -> Object:
        (container,) = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def repository(self) -> str:
        return str(self.container["image"]).rpartition(":")[0]

    @property
    def ports(self) -> Mapping[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}

    @property
    def environment(self) -> dict[str, str]:
        """As the container sees it, in a namespace called ndsc."""
        values = {}
        for variable in self.container.get("env", []):
            source = variable.get("valueFrom", {})
            if "resourceFieldRef" in source:
                field = source["resourceFieldRef"]["resource"]
                limits, _, resource = field.partition(".")
                values[variable["name"]] = str(self.container["resources"][limits][resource])
            elif "fieldRef" in source:
                assert source["fieldRef"]["fieldPath"] == "metadata.namespace"
                values[variable["name"]] = "ndsc"
            else:
                values[variable["name"]] = variable["value"]
        return values

    def settings(self, monkeypatch: pytest.MonkeyPatch) -> Settings:
        """What the service makes of its environment and arguments."""
        with monkeypatch.context() as patch:
            for name in os.environ:
                if name.startswith("NDSC_"):
                    patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return load_settings(SERVICES[self.repository], self.container.get("args", []))


def workloads(rendered: list[Object]) -> list[Workload]:
    return [Workload(item) for item in of_kind(rendered, "StatefulSet", "Deployment")]


def ours(rendered: list[Object]) -> list[Workload]:
    """Those that run a service of this project."""
    return [workload for workload in workloads(rendered) if workload.repository in SERVICES]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether matchLabels, or a Service's selector, are all there."""
    assert "matchExpressions" not in selector
    wanted: Mapping[str, str] = selector.get("matchLabels", selector)
    return wanted.items() <= labels.items()


# Schemas


@cache
def validate(item: str, version: str) -> None:
    """An object as JSON: most are the same in every overlay."""
    assert version.startswith(kubernetes_validate.validate(json.loads(item), version, strict=True))


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_objects_are_what_kubernetes_knows(rendered: list[Object], version: str) -> None:
    for item in rendered:
        validate(json.dumps(item), version)


def test_a_field_that_no_one_knows_is_refused() -> None:
    decoder = named(objects(KUBERNETES / "base"), "StatefulSet", "decoder")
    decoder["spec"]["template"]["spec"]["containers"][0]["readinessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinessProbes"):
        kubernetes_validate.validate(decoder, OLDEST, strict=True)


def test_the_page_names_the_oldest_version() -> None:
    assert f"Kubernetes {OLDEST} or newer" in PAGE


# Names that must meet


def test_selectors_find_their_pods_and_nothing_else(rendered: list[Object]) -> None:
    for workload in workloads(rendered):
        spec = workload.item["spec"]
        found = [other.name for other in workloads(rendered) if selects(spec["selector"], other.labels)]
        assert found == [workload.name]
        for constraint in workload.pod.get("topologySpreadConstraints", []):
            assert selects(constraint["labelSelector"], workload.labels)
    for item in of_kind(rendered, "Service", "PodDisruptionBudget"):
        selector = item["spec"]["selector"]
        assert len([workload for workload in workloads(rendered) if selects(selector, workload.labels)]) == 1


def test_services_lead_to_open_ports(rendered: list[Object]) -> None:
    for service in of_kind(rendered, "Service"):
        (workload,) = [w for w in workloads(rendered) if selects(service["spec"]["selector"], w.labels)]
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in workload.ports
            assert workload.ports[port["targetPort"]] == port["port"]
    decoder = named(rendered, "StatefulSet", "decoder")
    governing = named(rendered, "Service", decoder["spec"]["serviceName"])
    assert governing["spec"]["clusterIP"] == "None"


def test_addresses_in_settings_are_services(rendered: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        f"{service['metadata']['name']}:{port['port']}"
        for service in of_kind(rendered, "Service")
        for port in service["spec"]["ports"]
    }
    for workload in ours(rendered):
        settings = workload.settings(monkeypatch)
        if not isinstance(settings, DecoderSettings):
            assert settings.decoder in known
        if isinstance(settings, ViewerSettings):
            assert set(settings.node) <= known


def test_what_pods_refer_to_is_there(rendered: list[Object]) -> None:
    maps = {item["metadata"]["name"] for item in of_kind(rendered, "ConfigMap")}
    accounts = {item["metadata"]["name"] for item in of_kind(rendered, "ServiceAccount")}
    for workload in workloads(rendered):
        assert workload.pod["serviceAccountName"] in accounts
        claims = {
            claim["metadata"]["name"] for claim in workload.item["spec"].get("volumeClaimTemplates", [])
        }
        volumes = {volume["name"] for volume in workload.pod.get("volumes", [])} | claims
        assert {mount["name"] for mount in workload.container["volumeMounts"]} == volumes
        for volume in workload.pod.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
            elif "secret" in volume:
                assert volume["secret"]["secretName"] in TO_BE_MADE
            else:
                assert volume["emptyDir"]["sizeLimit"]
        assert not [v for v in workload.container["env"] if "secretKeyRef" in v.get("valueFrom", {})]


# Settings


def test_variables_are_settings_and_parse(rendered: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    health = typer.main.get_command(app).commands["health"]  # type: ignore[attr-defined]
    of_commands = {option.envvar for option in health.params if option.envvar}
    for workload in ours(rendered):
        cls = SERVICES[workload.repository]
        prefix = str(cls.model_config["env_prefix"])
        for name in workload.environment:
            assert name in of_commands or name.removeprefix(prefix).lower() in cls.model_fields, name
        settings = workload.settings(monkeypatch)
        assert split_address(settings.listen)[1] in workload.ports.values()
        if isinstance(settings, DecoderSettings | EncoderSettings) and settings.metrics_listen:
            annotations = workload.item["spec"]["template"]["metadata"]["annotations"]
            port = split_address(settings.metrics_listen)[1]
            assert workload.ports["metrics"] == port == int(annotations["prometheus.io/port"])


def test_files_in_settings_are_mounted(rendered: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    for workload in ours(rendered):
        mounts = {mount["mountPath"]: mount["name"] for mount in workload.container["volumeMounts"]}
        secrets = {volume["name"] for volume in workload.pod["volumes"] if "secret" in volume}
        settings = workload.settings(monkeypatch)
        files = settings.certificate_files()
        if files is not None:
            assert {path.name for path in files.paths} == {"ca.crt", "tls.crt", "tls.key"}
            assert all(mounts[str(path.parent)] in secrets for path in files.paths)
        if isinstance(settings, DecoderSettings):
            assert mounts[str(settings.archive)] == "archive"
            own = {n: v for n, v in workload.environment.items() if n.startswith("NDSC_TLS_")}
            assert sorted(own.values()) == sorted(map(str, files.paths if files else ()))


def test_decoders_have_room_and_time(rendered: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Workload(named(rendered, "StatefulSet", "decoder"))
    settings = decoder.settings(monkeypatch)
    assert isinstance(settings, DecoderSettings)
    assert decoder.pod["terminationGracePeriodSeconds"] >= settings.drain_seconds + 10
    (claim,) = decoder.item["spec"]["volumeClaimTemplates"]
    room = re.fullmatch(r"(\d+)Gi", claim["spec"]["resources"]["requests"]["storage"])
    assert room
    assert int(room[1]) * 1024 >= settings.archive_capacity_mbytes * 1.2
    assert settings.threads == int(decoder.container["resources"]["limits"]["cpu"])


def test_the_gpu_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Workload(named(objects(KUBERNETES / "overlays/gpu"), "StatefulSet", "decoder"))
    settings = decoder.settings(monkeypatch)
    assert isinstance(settings, DecoderSettings)
    assert settings.provider == "cuda"
    assert decoder.container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert decoder.repository == "ndsc/decoder-cuda"


def test_with_tls_nothing_of_ours_is_plaintext(monkeypatch: pytest.MonkeyPatch) -> None:
    for workload in ours(objects(KUBERNETES / "overlays/tls")):
        settings = workload.settings(monkeypatch)
        assert settings.certificate_files() is not None
        # The viewer's page is: it listens to other machines without a login, and network.yaml keeps them away.
        assert settings.allow_plaintext_beyond_loopback == isinstance(settings, ViewerSettings)


# Probes


def test_probes_ask_what_is_there(rendered: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    for workload in workloads(rendered):
        probes = {name: p for name, p in workload.container.items() if name.endswith("Probe")}
        assert "readinessProbe" in probes
        for probe in probes.values():
            if "grpc" in probe:
                settings = workload.settings(monkeypatch)
                assert settings.certificate_files() is None, "Kubernetes' gRPC probes speak no TLS"
                assert probe["grpc"] == {"port": split_address(settings.listen)[1]}
            elif "exec" in probe:
                program, command, address = probe["exec"]["command"]
                settings = workload.settings(monkeypatch)
                assert (program, command) == ("ndsc", "health")
                assert split_address(address) == ("localhost", split_address(settings.listen)[1])
                assert probe["timeoutSeconds"] >= 10
            else:
                assert probe["httpGet"]["port"] in workload.ports
        if "livenessProbe" in probes:  # a service that is merely busy is not to be restarted
            liveness = probes["livenessProbe"]
            patience = liveness.get("periodSeconds", 10) * liveness["failureThreshold"]
            assert patience >= 60


# Hardening, images


def test_containers_may_do_little(rendered: list[Object]) -> None:
    for workload in workloads(rendered):
        assert workload.pod["automountServiceAccountToken"] is False
        assert workload.pod["enableServiceLinks"] is False
        assert workload.pod["securityContext"]["runAsUser"] == (
            65532 if workload.repository in SERVICES else 99
        )
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & workload.pod.keys()
        assert workload.container["securityContext"] == {
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        resources = workload.container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys() & resources["limits"].keys()
        if workload.repository in SERVICES:
            assert "/tmp" in {mount["mountPath"] for mount in workload.container["volumeMounts"]}


def test_images_are_pinned(rendered: list[Object]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for workload in workloads(rendered):
        image = workload.container["image"]
        assert image == (
            f"{workload.repository}:{version}"
            if workload.repository in SERVICES
            else compose["proxy"]["image"]
        )


# Who may talk to whom


def admits(
    rendered: list[Object], to: Workload, port: str, source: Mapping[str, str], namespace: str
) -> bool:
    """Whether the policies let a pod with labels `source` in a namespace, ours called "ndsc", reach a port."""
    policies = [
        policy["spec"]
        for policy in of_kind(rendered, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], to.labels)
    ]
    assert policies, f"{to.name} is open to all"

    def fits(peer: Mapping[str, Any]) -> bool:
        if "namespaceSelector" in peer:
            assert "podSelector" not in peer
            return selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
        return namespace == "ndsc" and selects(peer["podSelector"], source)

    return any(
        port in [allowed["port"] for allowed in rule["ports"]]
        and ("from" not in rule or any(fits(peer) for peer in rule["from"]))
        for policy in policies
        for rule in policy.get("ingress", [])
    )


def test_network_policies(rendered: list[Object]) -> None:
    pods = {workload.name: workload for workload in workloads(rendered)}
    secure = named(rendered, "Service", "decoder-proxy")["spec"].get("type") == "LoadBalancer"
    stranger: dict[str, str] = {}

    def may(source: str, to: str, port: str, namespace: str = "ndsc") -> bool:
        labels = pods[source].labels if source in pods else stranger
        return admits(rendered, pods[to], port, labels, namespace)

    assert may("proxy", "decoder", "grpc")
    assert may("viewer", "proxy", "grpc")
    assert may("a camera", "proxy", "grpc")
    assert may("a camera", "proxy", "grpc", "elsewhere") == secure
    for target in ("decoder", "proxy"):
        assert may("prometheus", target, "metrics", "monitoring")
        assert not may("viewer", target, "metrics")
        assert not may("prometheus", target, "metrics", "elsewhere")
    assert not may("viewer", "decoder", "grpc")
    assert not may("proxy", "decoder", "grpc", "elsewhere")
    assert not may("proxy", "viewer", "http")
    for camera in (name for name in pods if name.startswith("camera-")):
        assert may("viewer", camera, "grpc")
        assert not may("proxy", camera, "grpc")
    egress = {p["metadata"]["name"]: p["spec"].get("egress", []) for p in of_kind(rendered, "NetworkPolicy")}
    assert egress["decoder"] == []
    (to_decoders, names) = egress["proxy"]
    assert [selects(peer["podSelector"], pods["decoder"].labels) for peer in to_decoders["to"]] == [True]
    assert {(p["port"], p["protocol"]) for p in names["ports"]} == {(53, "UDP"), (53, "TCP")}


# The proxy


def proxy_configuration(rendered: list[Object]) -> str:
    (config,) = of_kind(rendered, "ConfigMap")
    return str(config["data"]["haproxy.cfg"])


def test_each_home_has_every_decoder_its_own_first(rendered: list[Object]) -> None:
    text = proxy_configuration(rendered)
    base = named(objects(KUBERNETES / "base"), "StatefulSet", "decoder")
    count = int(base["spec"]["replicas"])
    assert named(rendered, "StatefulSet", "decoder")["spec"]["replicas"] <= count
    assert re.findall(r"\bmod\((\d+)\)", text) == [str(count)]
    homes = re.findall(r"^backend home-(\d+)\n((?:  server .*\n)+)", text, re.MULTILINE)
    assert [int(home) for home, _ in homes] == list(range(count))
    for home, servers in homes:
        lines = re.findall(r'  server decoder-(\d) "(\S+):50051" (.*)\n', servers)
        ring = [(int(home) + step) % count for step in range(count)]
        assert [int(number) for number, _, _ in lines] == ring
        for number, host, rest in lines:
            assert host == f"decoder-{number}.decoder.${{NAMESPACE}}.svc.cluster.local"
            assert rest == ("check" if number == home else f"track home-{number}/decoder-{number} backup")
    proxy = Workload(named(rendered, "Deployment", "proxy"))
    (hard_stop,) = re.findall(r"^  hard-stop-after (\d+)s$", text, re.MULTILINE)
    assert int(hard_stop) < proxy.pod["terminationGracePeriodSeconds"]
    assert set(map(int, re.findall(r"^  bind :(\d+)", text, re.MULTILINE))) == set(proxy.ports.values())


def check_proxy_configuration(text: str, folder: Path) -> None:
    file = folder / "haproxy.cfg"
    file.write_text(text)
    command = ["haproxy", "-c", "-f", str(file)]
    environment = os.environ | {"NAMESPACE": "ndsc"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")
def test_haproxy_takes_the_configuration(rendered: list[Object], tmp_path: Path) -> None:
    check_proxy_configuration(proxy_configuration(rendered), tmp_path)


@pytest.mark.deploy
def test_haproxy_is_there() -> None:
    assert shutil.which("haproxy"), "apt-get install haproxy"


# docs/operate/kubernetes.md


def blocks(language: str) -> Iterator[str]:
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        yield match[1]


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
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
    (example,) = blocks("yaml")
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
            result = CliRunner().invoke(app, words, catch_exceptions=False)
            assert result.exit_code == 0, result.output
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
