"""Many decoders behind a real proxy: deploy/scale, and what docs/operate/scaling.md says of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ndsc.codec.bundle import Bundle
from ndsc.service.health import check_health
from tests.contract.service_process import Service
from tests.deploy.fleet import Fleet
from tests.deploy.haproxy import CONFIGURATIONS, Mode, proxying
from tests.deploy.scale import MODES, run
from tests.pki import Authority
from tests.robustness.bundles import make_bundles
from tests.robustness.rig import free_port

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def _haproxy() -> None:
    assert shutil.which("haproxy"), "these tests need HAProxy: apt-get install haproxy"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundles(tmp_path_factory.mktemp("bundles")).present


@pytest.fixture
def proxy_certificate(tmp_path: Path) -> dict[str, str]:
    files = Authority(tmp_path / "pki").server()
    pair = tmp_path / "proxy.pem"
    assert files.certificate is not None
    assert files.key is not None
    pair.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    return {"NDSC_PROXY_CERTIFICATE": str(pair), "NDSC_TLS_CA": str(files.ca)}


@pytest.mark.parametrize("mode", MODES)
async def test_a_rig_stays_together_and_no_frame_is_lost(mode: Mode, bundle: Bundle, tmp_path: Path) -> None:
    outcome = await run(Fleet(tmp_path / mode, mode, bundle))
    print(f"\n{outcome}")
    assert outcome.violations == []
    assert outcome.stored_at_death > 0
    for row in outcome.rows:
        assert row.sessions == 4
        assert 0 < row.moved < 4
        assert row.sent == row.decoded + row.failed + row.unknown
        assert row.lost == row.failed == 0
        assert row.unknown == 0 or row.delivery == "live"
    if mode == "tls":
        assert outcome.refusals["certificate of another rig"] == "PERMISSION_DENIED"
        assert outcome.refusals["certificate of another authority"] == "UNAVAILABLE"
    # HAProxy older than 3.0.11 breaks such a stream off before the caller has read why.
    assert outcome.refusals["no rig"] in (
        ("INVALID_ARGUMENT", "CANCELLED") if mode == "plaintext" else ("UNAVAILABLE",)
    )


async def test_a_decoder_that_does_not_serve_gets_no_rig(bundle: Bundle, tmp_path: Path) -> None:
    """One without its GPU answers NOT_SERVING for ever; and one is not there at all."""
    ports = {f"decoder-{number}": free_port() for number in (1, 2, 3)}
    flags = ("--bundle", bundle.path, "--threads", 1)
    services = [
        await Service.start("decoder_service", *flags, "--listen", f"127.0.0.1:{ports['decoder-1']}"),
        await Service.start(
            *("decoder_service", *flags, "--listen", f"127.0.0.1:{ports['decoder-2']}"),
            *("--provider", "cuda"),
        ),
    ]
    try:
        await services[0].line("ready")
        async with proxying("plaintext", ports, tmp_path) as proxy:
            await proxy.wait_for("NOLB", "decoder-2")
            await proxy.wait_for("DOWN", "decoder-3")
            await proxy.wait_for("UP", "decoder-1")
            rigs = [f"rig-{number}" for number in range(20)]
            assert {await check_health(proxy.address, rig=rig) for rig in rigs} == {"SERVING"}
            assert await check_health(proxy.address) == "SERVING"
            metrics = proxy.get("/metrics")
    finally:
        for service in services:
            await service.kill()
    assert 'haproxy_server_status{proxy="decoders",server="decoder-1",state="UP"} 1' in metrics
    assert 'haproxy_server_status{proxy="decoders",server="decoder-2",state="NOLB"} 1' in metrics


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asks", [False, True])
def test_shipped_configurations_are_valid(mode: Mode, asks: bool, proxy_certificate: dict[str, str]) -> None:
    """As they are, on a machine where no decoder has a name yet."""
    checked = subprocess.run(
        ["haproxy", "-c", "-f", CONFIGURATIONS / f"{mode}.cfg"],
        env=os.environ | (proxy_certificate if asks else {"NDSC_PROXY_CERTIFICATE": ""}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    warnings = [line for line in checked.stderr.splitlines() if "[WARNING]" in line]
    assert [line for line in warnings if "could not resolve address 'decoder-" not in line] == []
