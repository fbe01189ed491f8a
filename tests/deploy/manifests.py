"""deploy/kubernetes as kubectl renders it, without a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from decoder_service.settings import DecoderSettings
from encoder_service.settings import EncoderSettings
from ndsc.service.settings import load_settings
from ndsc.viewer.settings import ViewerSettings
from tests.e2e.conftest import ROOT

Object = dict[str, Any]
Settings = DecoderSettings | EncoderSettings | ViewerSettings

KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
KUSTOMIZATIONS: Final = ("base", "overlays/demo", "overlays/gpu", "overlays/tls")
OLDEST: Final = "1.27"
"""Of Kubernetes, that the page names: the first whose gRPC probes are stable."""
TO_BE_MADE: Final = frozenset({"decoder-tls", "viewer-tls"})
"""Secrets that the page tells an operator to make."""
SERVICES: Final[Mapping[str, type[Settings]]] = {
    "ndsc/decoder": DecoderSettings,
    "ndsc/decoder-cuda": DecoderSettings,
    "ndsc/encoder": EncoderSettings,
    "ndsc/viewer": ViewerSettings,
}


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


@cache
def validate(item: str, version: str) -> None:
    """An object as JSON: most are the same in every overlay."""
    assert version.startswith(kubernetes_validate.validate(json.loads(item), version, strict=True))
