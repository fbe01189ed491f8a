"""HAProxy as a process, with a configuration that is the shipped one at other addresses."""

from __future__ import annotations

import asyncio
import csv
import os
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ndsc.service.tls import CertificateFiles
from tests.e2e.conftest import ROOT
from tests.robustness.processes import until
from tests.robustness.rig import free_port

Mode = Literal["plaintext", "tls"]

CONFIGURATIONS: Final = ROOT / "deploy" / "scale"
PATIENCE_S: Final = 30.0
_OWNER_S: Final = 6.0
"""Until then a new process looks for one to have its table from, and gives none."""
_HANDED_OVER_S: Final = 1.0


def configuration(mode: Mode, addresses: Mapping[str, str], *, remembers: bool = True) -> str:
    """The shipped text with its addresses replaced, each of which stands in it once.

    A decoder whose name the text lacks is added as an operator would. One that does not remember where rigs are
    lacks that table, to see what it is for.
    """
    text = (CONFIGURATIONS / f"{mode}.cfg").read_text()
    last = re.findall(r"^  server .*$", text, re.MULTILINE)[-1]
    for shipped in addresses:
        name = shipped.removesuffix(":50051")
        if name.startswith("decoder-") and f" {shipped} " not in text:
            text = text.replace(last, f"{last}\n  server {name} {shipped} id {name.removeprefix('decoder-')}")
    if not remembers:
        text = re.sub(r"^  stick.*\n", "", text, flags=re.MULTILINE)
    for shipped, ours in addresses.items():
        text, times = re.subn(rf"(?<= ){re.escape(shipped)}(?=\s)", ours, text)
        assert times == 1, f"{mode}.cfg has {shipped} {times} times"
    return text


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    port: int
    status_port: int
    process: asyncio.subprocess.Process
    started_s: float = field(default_factory=time.monotonic)

    @property
    def address(self) -> str:
        """For calls."""
        return f"127.0.0.1:{self.port}"

    def get(self, path: str) -> str:
        """What its status page answers. Raises OSError."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def states(self) -> dict[str, str]:
        """Of each decoder: UP, DOWN, NOLB (it shuts down, or warms up), or on the way from one to another."""
        rows = csv.DictReader(self.get("/;csv").removeprefix("# ").splitlines())
        return {
            row["svname"]: row["status"]
            for row in rows
            if row["pxname"] == "decoders" and row["svname"] != "BACKEND"
        }

    async def wait_for(self, state: str, *decoders: str) -> None:
        """Wait until decoders, or all of them, have a state. Raises ProcessError."""

        def reached() -> bool:
            try:
                states = self.states()
            except OSError:
                return False
            return all(states[name] == state for name in decoders or states)

        await until(reached, PATIENCE_S, f"{', '.join(decoders) or 'every decoder'} {state}")

    async def reload(self) -> None:
        """Let a new process take over, as after a change of the configuration. Raises ProcessError."""
        await asyncio.sleep(max(0.0, self.started_s + _OWNER_S - time.monotonic()))
        before = self._worker()
        self.process.send_signal(signal.SIGHUP)
        await until(lambda: self._worker() not in ("", before), PATIENCE_S, "another process of the proxy")
        await asyncio.sleep(_HANDED_OVER_S)

    def _worker(self) -> str:
        """Process id of who answers; "" when nobody does."""
        try:
            found = re.search(r"pid = </b> (\d+)", self.get("/"))
        except OSError:
            return ""
        return found[1] if found else ""


def certificate_environment(files: CertificateFiles, folder: Path) -> dict[str, str]:
    """What gives the proxy of tls.cfg a certificate to ask for health with: a server's own is good for that."""
    assert files.certificate is not None
    assert files.key is not None
    pair = folder / "proxy.pem"
    pair.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    return {"NDSC_PROXY_CERTIFICATE": str(pair), "NDSC_TLS_CA": str(files.ca)}


@asynccontextmanager
async def proxying(
    mode: Mode, decoders: Mapping[str, int], folder: Path, *, remembers: bool = True, **environment: str
) -> AsyncIterator[Proxy]:
    """Run the proxy for decoders by name, each at a port of loopback; configuration and log are in `folder`."""
    assert shutil.which("haproxy"), "this needs HAProxy: apt-get install haproxy"
    port, status_port = free_port(), free_port()
    addresses = {
        ":50051": f"127.0.0.1:{port}",
        ":8405": f"127.0.0.1:{status_port}",
        "127.0.0.1:10000": f"127.0.0.1:{free_port()}",
    } | {f"{name}:50051": f"127.0.0.1:{at}" for name, at in decoders.items()}
    file = folder / "haproxy.cfg"
    file.write_text(configuration(mode, addresses, remembers=remembers))
    with (folder / "haproxy.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *("haproxy", "-W", "-db", "-f", str(file)),
            stdout=log,
            stderr=log,
            env=os.environ | environment,
        )
    try:
        yield Proxy(port, status_port, process)
    finally:
        process.terminate()
        await process.wait()
