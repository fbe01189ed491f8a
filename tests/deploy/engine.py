"""A Docker engine, and base images for machines that reach no image registry."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import APIError, ImageNotFound

from tests.e2e.conftest import ROOT

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
SUITE = "bookworm"
PATIENCE_S = 60.0
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Engine:
    """Where containers run."""

    client: docker.DockerClient
    environment: dict[str, str]
    """For commands that talk to it."""
    own: bool
    """Whether it is this run's alone: on others no stand-in may take the name of a public image."""


@contextmanager
def running(folder: Path) -> Iterator[Engine]:
    """The engine that answers, or one of this run's own below `folder`.

    The latter takes root, and Debian's packages docker.io and iptables.
    """
    if "DOCKER_HOST" in os.environ or _listens(Path("/var/run/docker.sock")):
        with closing(docker.from_env()) as client:
            yield Engine(client, dict(os.environ), own=False)
        return
    assert shutil.which("dockerd"), "these tests need a Docker engine: apt-get install docker.io iptables"
    assert os.geteuid() == 0, "no Docker engine answers, and starting one takes root"
    address = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--host", address, "--data-root", folder / "data", "--exec-root", folder / "exec"]
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, command), "--pidfile", str(folder / "pid")], stdout=log, stderr=log
        )
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not _listens(folder / "docker.sock"):
            ended = process.poll() is not None or time.monotonic() > deadline_s
            assert not ended, f"dockerd did not start: {(folder / 'dockerd.log').read_text()[-2000:]}"
            time.sleep(0.2)
        with closing(docker.DockerClient(base_url=address)) as client:
            yield Engine(client, os.environ | {"DOCKER_HOST": address}, own=True)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        shutil.rmtree(folder / "data", ignore_errors=True)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def compose_command() -> list[str]:
    """Today's plugin where it is there, else docker-compose (1.29 in Debian 12)."""
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return ["docker", "compose"]
    assert shutil.which("docker-compose"), "these tests need docker-compose: apt-get install docker-compose"
    return ["docker-compose"]


def base_image() -> str:
    """What the Dockerfile builds on unless it is told otherwise."""
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert found, "the Dockerfile names its base image"
    return found[1]


def _needs_stand_in(engine: Engine, name: str) -> bool:
    """Whether a public image is neither there nor can be pulled; then the engine must be the tests' own."""
    try:
        engine.client.images.get(name)
        return False
    except ImageNotFound:
        pass
    try:
        engine.client.images.pull(name)
        return False
    except APIError as error:
        if not engine.own:
            raise AssertionError(
                f"{name} cannot be pulled, and no stand-in goes on others' engines"
            ) from error
    print(f"{name} cannot be pulled: a stand-in is made of Debian's packages", file=sys.stderr)
    return True


def provide_base_image(engine: Engine, folder: Path) -> None:
    """See that the base image is there: pulled, or else made of Debian 12's packages."""
    name = base_image()
    if not _needs_stand_in(engine, name):
        return
    assert shutil.which("debootstrap"), "a stand-in takes debootstrap: apt-get install debootstrap"
    root = folder / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, SUITE, root], check=True, stdout=subprocess.DEVNULL
    )
    for unneeded in (
        "var/cache/apt",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
    ):
        shutil.rmtree(root / unneeded)
        (root / unneeded).mkdir()
    settings = ["ENV PIP_DISABLE_PIP_VERSION_CHECK=1"]
    if CERTIFICATES.exists():  # a machine behind a proxy has authorities of its own
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        settings.append(f"ENV PIP_CERT={CERTIFICATES}")
    archive = folder / "root.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    repository, tag = name.split(":")
    engine.client.api.import_image_from_file(str(archive), repository, tag, changes=settings)
    shutil.rmtree(root)
    archive.unlink()


def provide_proxy_image(engine: Engine, name: str) -> None:
    """See that HAProxy's image is there: pulled, or else Debian's package on top of the base image."""
    if not _needs_stand_in(engine, name):
        return
    recipe = f"""
        FROM {base_image()}
        RUN apt-get update && apt-get install -y --no-install-recommends haproxy
        STOPSIGNAL SIGUSR1
        ENTRYPOINT ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
    """
    build = subprocess.run(
        ["docker", "build", "--quiet", "--tag", name, "-"],
        input=recipe.encode(),
        env=engine.environment | {"DOCKER_BUILDKIT": "0"},
        capture_output=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr.decode()[-2000:]
