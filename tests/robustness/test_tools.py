"""The tools that runs are made of, each by itself."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic

import pytest

from tests.robustness.clocks import SteppedClock
from tests.robustness.disks import small_disk
from tests.robustness.netns import SERVER_ADDRESS, UnavailableError, check_available, linked_hosts, run
from tests.robustness.processes import ProcessError, Service
from tests.robustness.soak import Usage, grew
from tests.robustness.workspace import WorkspaceError, workspace

_TICKS = """
import threading, time
def offset():
    return time.time() - time.monotonic()
start = offset()
print("ready {}", flush=True)
while abs(offset() - start) < 4:
    threading.Event().wait(0.05)
print('stepped {"by": %r}' % (offset() - start), flush=True)
"""


def _needs_root() -> None:
    try:
        check_available()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("offset_s", [5.0, -5.0])
async def test_clock_steps(tmp_path: Path, offset_s: float) -> None:
    clock = SteppedClock(tmp_path / "clock")
    (tmp_path / "clock" / "ticks.py").write_text(_TICKS)
    service = Service("ticks", [], tmp_path / "ticks.log", environment=clock.environment)
    await service.start()
    await service.wait_for("ready", 10)
    clock.step_to(offset_s)
    stepped = await service.wait_for("stepped", 10)
    assert stepped["by"] == pytest.approx(offset_s, abs=0.2)
    assert await service.wait(5) == 0


async def test_service_is_killed_and_started_again(tmp_path: Path) -> None:
    (tmp_path / "idle.py").write_text('import time\nprint("ready {}", flush=True)\ntime.sleep(60)\n')
    service = Service("idle", [], tmp_path / "idle.log", environment={"PYTHONPATH": str(tmp_path)})
    await service.start()
    await service.wait_for("ready", 10)
    first = service.pid
    await service.kill()
    with pytest.raises(ProcessError, match="ended with -9"):
        await service.wait_for("done", 1)
    await service.start()
    await service.wait_for("ready", 10)
    service.freeze()
    await service.stop()
    assert service.returncode == -15
    assert service.killed == {first}


async def test_disk_fills_and_grows(tmp_path: Path) -> None:
    _needs_root()
    async with small_disk(tmp_path, 64) as disk:
        file = disk.path / "file"
        with pytest.raises(OSError, match="No space"):
            file.write_bytes(bytes(100_000))
        await disk.resize(1024)
        file.write_bytes(bytes(100_000))
        assert disk.free_bytes() > 0
    assert not file.exists()


_RECEIVE = f"""
import socket
listener = socket.create_server(("{SERVER_ADDRESS}", 5000))
print("ready {{}}", flush=True)
while True:
    connection, _ = listener.accept()
    while connection.recv(1 << 16):
        pass
    connection.close()
"""
_SEND = f"""
import socket
connection = socket.create_connection(("{SERVER_ADDRESS}", 5000), 60)
connection.sendall(bytes(20_000))
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
"""


async def test_link_is_slow_and_loses(tmp_path: Path) -> None:
    _needs_root()
    (tmp_path / "receive.py").write_text(_RECEIVE)

    async def transfer_s() -> float:
        started = monotonic()
        await run(*link.camera_prefix, sys.executable, "-c", _SEND)
        return monotonic() - started

    async with linked_hosts() as link:
        environment = {"PYTHONPATH": str(tmp_path)}
        receiver = Service(
            "receive", [], tmp_path / "log", prefix=link.server_prefix, environment=environment
        )
        await receiver.start()
        try:
            await receiver.wait_for("ready", 10)
            assert await transfer_s() < 1
            await link.limit(100)
            assert 1.2 < await transfer_s() < 10, "16 of 20 kB at 100 kbit/s; 4 go in a burst"
            await link.mend()
            # No more, or the retransmissions of an unlucky transfer outlast the test.
            await link.lose(15)
            while not await link.lost():
                await transfer_s()
        finally:
            await receiver.kill()
    assert link.server not in await run("ip", "netns", "list")


def test_a_folder_has_one_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").touch()
    with workspace(tmp_path / "run") as folder:
        assert list(folder.iterdir()) == []
        (folder / "new").touch()
        with pytest.raises(WorkspaceError, match="another run uses"), workspace(folder):
            pass
    assert (folder / "new").exists()


def test_growth_is_seen() -> None:
    usage = Usage(
        [60.0 * minute for minute in range(30)], [100 + minute / 10 for minute in range(30)], [20] * 30
    )
    assert usage.summary()["rss_slope_mib_per_hour"] == pytest.approx(6)
    assert grew("steady", usage.summary()) == []
    leaking = Usage(usage.at_s, [100.0 + minute for minute in range(30)], list(range(20, 50)))
    assert [line.split(" ")[1] for line in grew("leaking", leaking.summary())] == ["memory", "descriptors"]
