"""A project of docker-compose.yml with settings of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from docker.errors import ImageNotFound
from docker.models.containers import Container
from docker.models.images import Image

from tests.contract.service_process import free_port
from tests.deploy.engine import Engine, compose_command
from tests.e2e.conftest import ROOT
from tests.pages import blocks

PATIENCE_S = 180.0
COMMAND_TIMEOUT_S = 600.0
PORTS = ("NDSC_DECODER_PORT", "NDSC_PAGE_PORT")


def settings(block: str = "", **changes: str) -> str:
    """The text of .env, with free ports, the lines below the comment that begins with `block`, and `changes`."""
    lines, inside = [], False
    for line in (ROOT / ".env").read_text().splitlines():
        if line.startswith("# "):
            inside = bool(block) and line.startswith(f"# {block}:")
        lines.append(re.sub(r"^#(?=[A-Z])", "", line) if inside else line)
    for name, value in ({port: str(free_port()) for port in PORTS} | changes).items():
        places = [i for i, line in enumerate(lines) if re.match(rf"#?{name}=", line)]
        assert len(places) == 1, f".env has one line for {name}"
        lines[places[0]] = f"{name}={value}"
    return "\n".join(lines) + "\n"


def values(text: str) -> dict[str, str]:
    """Of the settings in force."""
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))


def commands(page: str) -> list[list[str]]:
    """Of each block of shell commands in a page of docs/operate."""
    return [block.splitlines() for block in blocks((ROOT / "docs" / "operate" / page).read_text(), "sh")]


@dataclass(frozen=True)
class Project:
    """What `docker compose` starts with one file of settings."""

    engine: Engine
    name: str
    env_file: Path

    @classmethod
    def make(cls, engine: Engine, name: str, text: str, folder: Path) -> Project:
        """With its file of settings in `folder`."""
        path = folder / f"{name}.env"
        path.write_text(text)
        return cls(engine, name, path)

    @property
    def settings(self) -> dict[str, str]:
        """In force."""
        return values(self.env_file.read_text())

    @property
    def _command(self) -> list[str]:
        return [*compose_command(), "--env-file", str(self.env_file)]

    def run(self, *arguments: str) -> str:
        """A command of docker compose; what it printed. Fails with its output."""
        return self._done([*self._command, *arguments], cwd=ROOT)

    def follow(self, lines: Sequence[str], folder: Path) -> str:
        """Run lines of a page of docs/operate in `folder`, as a reader would; what they printed.

        Of addresses only the port differs, of commands the name where docker-compose stands in for the plugin.
        """
        port = self.settings["NDSC_DECODER_PORT"]
        on_host = [re.sub(r"^(ndsc .*localhost):50051", rf"\1:{port}", line) for line in lines]
        compose = shlex.join(self._command).replace("docker compose", "command docker compose")
        alias = (
            f'docker() {{ if [ "$1" = compose ]; then shift; {compose} "$@"; else command docker "$@"; fi; }}'
        )
        script = "\n".join(["set -euo pipefail", alias, *on_host])
        return self._done(["bash", "-c", script], cwd=folder)

    def _done(self, command: list[str], *, cwd: Path) -> str:
        # What the environment says would come before the file.
        environment = {
            name: value
            for name, value in self.engine.environment.items()
            if not name.startswith(("NDSC_", "COMPOSE_"))
        }
        environment |= {
            "COMPOSE_FILE": str(ROOT / "docker-compose.yml"),
            "COMPOSE_PROJECT_NAME": self.name,
            "DOCKER_BUILDKIT": "0",  # the builder that every engine has
            "COMPOSE_DOCKER_CLI_BUILD": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def image(self, service: str) -> Image:
        """The one that was built for a service."""
        for joint in "-_":  # of the plugin, of docker-compose 1.29
            with suppress(ImageNotFound):
                return self.engine.client.images.get(f"{self.name}{joint}{service}")
        raise AssertionError(f"no image was built for {service}")

    def container(self, service: str) -> Container:
        """The one of a service, as it is now."""
        labels = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
        (found,) = self.engine.client.containers.list(all=True, filters={"label": labels})
        found.reload()
        return found

    def services(self) -> set[str]:
        """Those that have a container."""
        label = f"com.docker.compose.project={self.name}"
        found = self.engine.client.containers.list(all=True, filters={"label": label})
        return {container.labels["com.docker.compose.service"] for container in found}

    def health(self, service: str) -> str:
        """What the engine's health check says."""
        status: str = self.container(service).attrs["State"].get("Health", {}).get("Status", "none")
        return status

    def wait_until_healthy(self, *services: str) -> None:
        """Until the health checks of all pass."""
        until(lambda: all(self.health(service) == "healthy" for service in services), self.logs)

    def logs(self) -> str:
        """The last lines of all."""
        return self.run("logs", "--no-color", "--tail", "20")

    def ask(self, service: str, *command: str) -> str:
        """What a command in a service's container prints; it must succeed."""
        status, output = self.container(service).exec_run(list(command))
        assert isinstance(output, bytes)
        text = output.decode()
        assert status == 0, text
        return text

    def metrics(self, service: str) -> str:
        """What a service shows to Prometheus."""
        networks = self.container(service).attrs["NetworkSettings"]["Networks"]
        address = networks[f"{self.name}_metrics"]["IPAddress"]
        with urllib.request.urlopen(f"http://{address}:9464/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        self.run("down", "--volumes", "--timeout", "20")


def until(
    condition: Callable[[], object], explain: Callable[[], str], patience_s: float = PATIENCE_S
) -> None:
    """For what no message tells of."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, explain()
        time.sleep(0.25)
