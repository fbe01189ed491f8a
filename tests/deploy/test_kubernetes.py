"""deploy/kubernetes: schemas, and what no schema knows.

No cluster takes part: what an API server would refuse is found, what a controller does is not.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import typer
import yaml

from decoder_service.settings import DecoderSettings
from encoder_service.settings import EncoderSettings
from ndsc.cli import app
from ndsc.service.settings import split_address
from ndsc.viewer.settings import ViewerSettings
from tests.deploy.manifests import (
    KUBERNETES,
    KUSTOMIZATIONS,
    OLDEST,
    SERVICES,
    TO_BE_MADE,
    Object,
    Workload,
    named,
    objects,
    of_kind,
    ours,
    selects,
    validate,
    workloads,
)
from tests.e2e.conftest import ROOT


@pytest.fixture(params=KUSTOMIZATIONS)
def rendered(request: pytest.FixtureRequest) -> list[Object]:
    return objects(KUBERNETES / str(request.param))


# Schemas


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_objects_are_what_kubernetes_knows(rendered: list[Object], version: str) -> None:
    for item in rendered:
        validate(json.dumps(item), version)


def test_a_field_that_no_one_knows_is_refused() -> None:
    decoder = named(objects(KUBERNETES / "base"), "StatefulSet", "decoder")
    decoder["spec"]["template"]["spec"]["containers"][0]["readinessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinessProbes"):
        kubernetes_validate.validate(decoder, OLDEST, strict=True)


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
