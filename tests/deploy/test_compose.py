"""docker-compose.yml as a newcomer starts it: images, a picture on the page, faults, TLS, many decoders."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.models.images import Image
from playwright.sync_api import expect

import ndsc
from ndsc.client import ServiceError, UnreachableError
from ndsc.codec.bundle import Bundle, default_bundle_path
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.errors import NdscError
from ndsc.scene import SceneConfig, StereoScene
from tests.browser.rig import chromium
from tests.deploy.compose import Project, commands, settings, until
from tests.deploy.engine import Engine, base_image, provide_proxy_image
from tests.e2e.conftest import ROOT

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

RIG = ("decoder", "camera-left", "camera-right", "viewer")
LARGEST_MBYTES = {"encoder": 400, "decoder": 400, "viewer": 420}
"""Of what each image adds to its base."""
DRAINED_S = 15.0
UP, WATCH, END = commands("compose.md")


@pytest.fixture(scope="module")
def rig(
    engine: Engine, images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """The project as it comes, on ports that are free."""
    folder = tmp_path_factory.mktemp("plain")
    started = Project.make(engine, "ndsc-plain", settings(), folder)
    try:
        started.follow(UP, folder)
        yield started
    finally:
        started.down()


def node(project: Project) -> dict[str, Any]:
    """The left camera's account."""
    account: dict[str, Any] = json.loads(project.ask("viewer", "ndsc", "node", "camera-left:50061"))
    return account


def test_images_are_small_and_bring_what_they_need(engine: Engine, images: dict[str, Image]) -> None:
    base = engine.client.images.get(base_image()).attrs["Size"]
    sizes = {target: (image.attrs["Size"] - base) / 1e6 for target, image in images.items()}
    print(
        f"\nMB beside the {base / 1e6:.0f} of the base:", {name: round(size) for name, size in sizes.items()}
    )
    for target, image in images.items():
        assert sizes[target] < LARGEST_MBYTES[target], target
        listed = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
        output = engine.client.containers.run(
            image, ["-c", listed], entrypoint="python", remove=True, network_mode="none"
        )
        packages = set(output.decode().split())
        assert {"ndsc", "onnxruntime", "grpcio", "constriction"} <= packages
        assert ("aiohttp" in packages) == (target == "viewer")
        assert not packages & {"pip", "setuptools", "torch", "onnxruntime-gpu", "pytest"}
        assert not [name for name in packages if name.startswith("nvidia")]


def test_from_up_to_a_picture_on_the_page(rig: Project) -> None:
    """First of those that use the rig: its settings were written when it was told to start."""
    with chromium() as browser:
        page = browser.new_page()
        until(lambda: rig.health("viewer") == "healthy", rig.logs)
        page.goto(f"http://localhost:{rig.settings['NDSC_PAGE_PORT']}/")
        picture = page.locator("#picture-right")
        expect(picture).to_have_attribute("src", re.compile("decoded"), timeout=120_000)
        page.wait_for_function(
            "() => document.querySelector('#picture-right').naturalWidth > 0", timeout=60_000
        )
        print(
            f"\nup to the first decoded frame on the page: {time.time() - rig.env_file.stat().st_mtime:.1f} s"
        )
        expect(page.locator("#facts")).to_contain_text("side information of right", timeout=120_000)
        expect(page.locator("#psnr-now")).to_contain_text("without", timeout=120_000)
    assert rig.services() == set(RIG)
    rig.wait_until_healthy(*RIG)


def test_containers_may_do_little(rig: Project) -> None:
    for service in RIG:
        container = rig.container(service)
        host = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        status = Path(f"/proc/{container.attrs['State']['Pid']}/status").read_text()
        assert set(re.findall(r"^Cap(?:Eff|Prm|Bnd):\t(\S+)$", status, re.MULTILINE)) == {"0" * 16}
        assert re.search(r"^Uid:\t65532\b", status, re.MULTILINE)
        written, _ = container.exec_run(["python", "-c", "open('/opt/ndsc/x', 'w')"])
        assert written != 0
    published = {
        (port, binding["HostIp"])
        for service in RIG
        for port, bindings in rig.container(service).attrs["NetworkSettings"]["Ports"].items()
        for binding in bindings or []
    }
    assert published == {("50051/tcp", "127.0.0.1"), ("8080/tcp", "127.0.0.1")}


def test_the_page_is_for_its_own_name(rig: Project) -> None:
    """So that another site's script cannot read it by a name that leads here."""
    request = urllib.request.Request(
        f"http://localhost:{rig.settings['NDSC_PAGE_PORT']}/", headers={"Host": "elsewhere.example"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    with refused.value as answer:
        assert answer.code == 403


def test_decode_from_outside(rig: Project) -> None:
    left, right = StereoScene(SceneConfig(seed=0)).pair(1.0)
    coded = FrameEncoder(Bundle.load(default_bundle_path())).encode(left, 3)
    with ndsc.Client(f"127.0.0.1:{rig.settings['NDSC_DECODER_PORT']}") as client:
        decoded = client.decode(coded, right)
        live = next(iter(client.subscribe("rig", ["left"])))
    assert decoded.image.shape == left.shape
    assert decoded.side_information.outcome == "inline"
    assert live.image.shape == left.shape


def test_metrics_of_a_running_decoder(rig: Project) -> None:
    text = rig.metrics("decoder")
    decoded = re.search(r'^ndsc_decoder_frames_total\{.*outcome="decoded".*\} (\S+)$', text, re.MULTILINE)
    assert decoded
    assert float(decoded[1]) > 0
    assert re.search(r"^ndsc_decoder_serving 1.0$", text, re.MULTILINE)


def test_a_killed_decoder_comes_back_and_the_session_goes_on(rig: Project) -> None:
    before = node(rig)
    restarts = rig.container("decoder").attrs["RestartCount"]
    # Not through the engine, which would take it for a person's wish.
    os.kill(rig.container("decoder").attrs["State"]["Pid"], signal.SIGKILL)
    until(lambda: rig.container("decoder").attrs["RestartCount"] > restarts, rig.logs)
    until(lambda: int(node(rig)["acknowledged"]) > int(before["acknowledged"]) + 10, rig.logs)
    after = node(rig)
    assert after["session_id"] == before["session_id"]
    assert after["connected"]
    accounted = sum(int(after[part]) for part in ("acknowledged", "unknown"))
    assert 0 <= int(after["sent"]) - accounted <= 4  # what is in flight: the decoder's credit
    rig.wait_until_healthy("decoder")


def test_a_decoder_that_is_stopped_drains(rig: Project) -> None:
    before = node(rig)
    started_s = time.monotonic()
    rig.container("decoder").stop(timeout=20)
    assert time.monotonic() - started_s < DRAINED_S
    stopped = rig.container("decoder")
    assert stopped.attrs["State"]["ExitCode"] == 0
    (closed,) = re.findall(r"stream closed .*camera=left.*", stopped.logs(tail=10).decode())
    assert "abandoned=0" in closed
    between = node(rig)
    assert between["unknown"] == before["unknown"]
    stopped.start()
    until(lambda: int(node(rig)["acknowledged"]) > int(between["acknowledged"]) + 5, rig.logs)
    assert node(rig)["session_id"] == before["session_id"]


def test_the_page_of_compose(rig: Project, tmp_path: Path) -> None:
    """Its other blocks, the last of which ends the rig, and that of the page of upgrades."""
    rig.wait_until_healthy(*RIG)
    printed = rig.follow(WATCH, tmp_path).splitlines()
    assert json.loads(printed[-2])["rate"] == {"rate_level": 6}
    assert printed[-1] == "SERVING"
    (upgrade,) = commands("upgrades.md")
    rig.follow(upgrade, tmp_path)
    rig.follow(END, tmp_path)
    assert not rig.services()


def test_the_page_of_tls(engine: Engine, images: dict[str, Image], tmp_path: Path) -> None:
    """Certificates are made on the first start, without one there is no answer, and new ones are taken."""
    up, call, renew = commands("tls.md")
    secure = Project.make(engine, "ndsc-tls", settings("tls", COMPOSE_PROFILES="cpu,tls"), tmp_path)
    held = {"decoder": "", "camera-left": ""}

    def certificates() -> dict[str, str]:
        return {service: secure.ask(service, "cat", "/certificates/certificate.pem") for service in held}

    try:
        secure.follow(up, tmp_path)
        secure.wait_until_healthy(*RIG)
        assert secure.follow(call, tmp_path).splitlines()[-1] == "SERVING"
        address = f"localhost:{secure.settings['NDSC_DECODER_PORT']}"
        ca, certificate, key = (tmp_path / "client" / f"{n}.pem" for n in ("ca", "certificate", "key"))
        with ndsc.Client(address, tls_ca=ca, tls_certificate=certificate, tls_key=key) as client:
            subscription = client.subscribe("rig", ["left"])
            until(lambda: next(subscription).side_information.outcome == "paired", secure.logs)
        with ndsc.Client(address) as client, pytest.raises((UnreachableError, ServiceError)):
            client.bundles()
        # A service holds its own key and no other; the authority's is nowhere but in its volume.
        for service in RIG:
            names = secure.ask(service, "find", "/certificates", "/pki", "-name", "*.pem").split()
            assert sorted(Path(name).name for name in names) == ["ca.pem", "certificate.pem", "key.pem"]
        first = certificates()
        secure.run("up", "--detach", "--force-recreate", "certificates")
        assert secure.container("certificates").wait(timeout=60)["StatusCode"] == 0
        assert certificates() == first
        secure.follow(renew, tmp_path)
        assert not set(certificates().values()) & set(first.values())
        # The node opens another call with its new certificate, in the same session.
        until(lambda: len(sessions(secure)) > 1, secure.logs)
        assert len(set(sessions(secure))) == 1
        assert node(secure)["connected"]
        secure.wait_until_healthy(*RIG)
    finally:
        secure.down()


def sessions(project: Project) -> list[str]:
    """Of the left camera's calls, by the decoder's log."""
    log = project.container("decoder").logs().decode()
    return re.findall(r"stream opened .*camera=left .*session=(\w+)", log)


def test_the_page_of_scaling(engine: Engine, images: dict[str, Image], tmp_path: Path) -> None:
    """A rig's camera and its side information meet at one of three decoders, whatever stops and starts."""
    start, change = (lines for lines in commands("scaling.md") if lines[0].startswith("docker"))
    many = Project.make(engine, "ndsc-scale", settings("scale", COMPOSE_PROFILES="scale"), tmp_path)
    proxy = re.search(r"image: (haproxy:\S+)", (ROOT / "docker-compose.yml").read_text())
    assert proxy
    provide_proxy_image(engine, proxy[1])
    decoders = ("decoder-1", "decoder-2", "decoder-3")

    def places(kind: str) -> list[str]:
        opened = re.compile(rf"^ndsc_decoder_open_{kind} 1\.0$", re.MULTILINE)
        found = []
        for decoder in decoders:
            with suppress(OSError):  # stopped, or just started
                if opened.search(many.metrics(decoder)):
                    found.append(decoder)
        return found

    def together() -> bool:
        at = places("cameras")
        return len(at) == 1 and places("side_streams") == at

    def paired() -> bool:
        with suppress(NdscError), ndsc.Client(f"127.0.0.1:{many.settings['NDSC_DECODER_PORT']}") as client:
            subscription = client.subscribe("rig", ["left"])
            return any(next(subscription).side_information.outcome == "paired" for _ in range(20))
        return False

    try:
        many.follow(start, tmp_path)
        many.wait_until_healthy(*decoders, "camera-left", "camera-right", "viewer")
        for line in [None, *change]:
            if line is not None:
                many.follow([line], tmp_path)
            until(together, many.logs)
            until(paired, many.logs)
    finally:
        many.down()


@pytest.mark.parametrize("profiles", ["gpu", "cpu,monitoring", "gpu,tls,monitoring", "scale,monitoring"])
def test_every_profile_is_read(engine: Engine, tmp_path: Path, profiles: str) -> None:
    """Of those that cannot run here: the file with what `.env` may say."""
    shown = Project.make(engine, "ndsc-read", settings(COMPOSE_PROFILES=profiles), tmp_path).run("config")
    services = yaml.safe_load(shown)["services"]
    if "gpu" in profiles:
        assert "nvidia" in str(services["decoder-gpu"])
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"], name
        assert service.get("mem_limit") or name == "certificates", name
        for port in service.get("ports", ()):
            assert "127.0.0.1" in str(port), name
        assert ("image" in service) != ("build" in service), f"{name}: what is built here has no public name"
