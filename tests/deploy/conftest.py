"""A Docker engine, and the images on it, for all tests of this folder."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.deploy import engine as engines
from tests.deploy.compose import Project, settings
from tests.deploy.engine import Engine

TARGETS = ("encoder", "decoder", "viewer")


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With the base image of the Dockerfiles, or a stand-in of it."""
    folder = tmp_path_factory.mktemp("engine")
    with engines.running(folder) as found:
        engines.provide_base_image(found, folder)
        yield found


@pytest.fixture(scope="session")
def image_mbytes(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Builds the images; megabytes that each adds to its base."""
    builder = Project.make(engine, "ndsc-build", settings(), tmp_path_factory.mktemp("build"))
    started_s = time.monotonic()
    builder.run("build")
    print(f"\nthree images built in {time.monotonic() - started_s:.0f} s")
    base = engine.client.images.get(engines.base_image()).attrs["Size"]
    sizes = {t: (engine.client.images.get(f"ndsc/{t}").attrs["Size"] - base) / 1e6 for t in TARGETS}
    print(
        f"MB beside the {base / 1e6:.0f} of the base:",
        {name: round(size) for name, size in sizes.items()},
    )
    return sizes
