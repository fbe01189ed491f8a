"""A Docker engine, and the images on it, for all tests of this folder."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from docker.models.images import Image

from tests.deploy import engine as engines
from tests.deploy.compose import Project, settings
from tests.deploy.engine import Engine

BUILT = {"encoder": "camera-left", "decoder": "decoder", "viewer": "viewer"}
"""Service of which each target of the Dockerfile is the image."""


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With the base image of the Dockerfiles, or a stand-in of it."""
    folder = tmp_path_factory.mktemp("engine")
    with engines.running(folder) as found:
        engines.provide_base_image(found, folder)
        yield found


@pytest.fixture(scope="session")
def images(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """Built, by target of the Dockerfile. Other projects find their layers in the cache."""
    builder = Project.make(engine, "ndsc-build", settings(), tmp_path_factory.mktemp("build"))
    started_s = time.monotonic()
    builder.run("build")
    print(f"\nimages built in {time.monotonic() - started_s:.0f} s")
    return {target: builder.image(service) for target, service in BUILT.items()}
