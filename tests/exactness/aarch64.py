"""A Debian 12 arm64 root on an x86-64 machine, run under qemu's user emulation.

`python -m tests.exactness.aarch64 ROOT` makes it and says what is inside: Python 3.11 and what `ndsc.codec`
imports, at the versions of constraints.txt. Two differ: constriction has no wheel there, and onnxruntime is
older, because current ones crash under this qemu. It takes root's rights on a Debian machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

SUITE: Final = "bookworm"
ONNXRUNTIME: Final = "1.22.1"
# Without their dependencies: onnxruntime names some that only its tools need.
PACKAGES: Final = (
    *("annotated-types", "google-crc32c", "numpy", "pillow", "protobuf", "pydantic", "pydantic-core"),
    *("typing-extensions", "typing-inspection"),
)
PLATFORMS: Final = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64")

_CONSTRAINTS: Final = Path(__file__).resolve().parents[2] / "constraints.txt"
_SITE: Final = "usr/local/lib/python3.11/dist-packages"
_MARKER: Final = "ndsc-root.json"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STEP_TIMEOUT_S: Final = 1800.0
_TOOLS: Final = {"debootstrap": "debootstrap", "qemu-aarch64-static": "qemu-user-static"}
_BINFMT: Final = "/proc/sys/fs/binfmt_misc"
_BINFMT_RULE: Final = "/usr/lib/binfmt.d/qemu-aarch64.conf"  # from qemu-user-static
_NOT_ENTERED: Final = "the aarch64 root cannot be entered"
_INSIDE: Final = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"}
_VERSIONS: Final = """
import json, platform, annotated_types, google_crc32c, google.protobuf, numpy, onnxruntime, PIL.Image, pydantic
print(json.dumps({"machine": platform.machine(), "python": platform.python_version(),
    "numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__}))
"""


class RootError(Exception):
    """The root cannot be made or entered; the message is one line that says why."""


def prepare(root: Path) -> None:
    """Make the root, some minutes from nothing; no work where it is there with the wanted versions.

    One with other versions is replaced. RootError without root's rights, where a tool cannot be installed, a
    step fails, or `root` holds something else.
    """
    root = root.resolve()
    wanted = {"suite": SUITE, "packages": _pins()}
    marker = root / _MARKER
    if marker.is_file() and marker.read_text() == json.dumps(wanted):
        return
    if root.exists() and not marker.is_file() and (not root.is_dir() or any(root.iterdir())):
        raise RootError(f"{root} exists and is not an aarch64 root; name another folder")
    if os.geteuid() != 0:
        raise RootError("making and entering an aarch64 root takes root's rights")
    host = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if missing:
        _step("apt-get update", ["apt-get", "update"], host)
        _step("apt-get install", ["apt-get", "install", "-y", "--no-install-recommends", *missing], host)
    root.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: made beside its place, then renamed.
    with tempfile.TemporaryDirectory(prefix=f"{root.name}.", dir=root.parent) as folder:
        new = Path(folder, "root")
        debootstrap = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", "--include=python3"]
        _step("debootstrap", [*debootstrap, SUITE, str(new)], host)
        second_stage = ["/debootstrap/debootstrap", "--second-stage"]
        _step("debootstrap's second stage", _entering(new, second_stage, {}), _INSIDE)
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps"]
        pip += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
        pip += [f"--platform={platform}" for platform in PLATFORMS]
        _step("pip install", [*pip, "--target", str(new / _SITE), *_pins()], host)
        shutil.rmtree(new / "var/cache/apt/archives", ignore_errors=True)
        (new / _MARKER).write_text(json.dumps(wanted))
        versions(new)
        if root.exists():  # nothing is mounted there: mounts live in the namespace of one run
            shutil.rmtree(root)
        new.rename(root)


def run(
    root: Path,
    argv: Sequence[str],
    *,
    mounts: Mapping[str, Path],
    timeout_s: float,
    env: Mapping[str, str] = {},
) -> subprocess.CompletedProcess[str]:
    """Run a command inside a prepared root, as its user root, from its `/`.

    `mounts` maps absolute paths inside to host directories, which are read-only there. `env` adds to PATH,
    HOME and LANG; `QEMU_CPU` names the processor that qemu emulates, by default one with every feature it
    knows. Everything the command started and mounted ends with it, also after a timeout.

    The result has the exit status, 128 + n where signal n ended the command. RootError when the root is not
    prepared or cannot be entered, subprocess.TimeoutExpired after `timeout_s`.
    """
    root = root.resolve()
    if not (root / _MARKER).is_file():
        raise RootError(
            f"{root} is not a prepared aarch64 root; run: python -m tests.exactness.aarch64 {root}"
        )
    if os.geteuid() != 0:
        raise RootError("making and entering an aarch64 root takes root's rights")
    try:
        done = _call(_entering(root, argv, mounts), _INSIDE | dict(env), timeout_s)
    except subprocess.TimeoutExpired as error:
        error.cmd = list(argv)  # what the caller knows it by
        raise
    if done.returncode and done.stderr.startswith(_NOT_ENTERED):
        raise RootError(_last_line(done))
    return done


def versions(root: Path) -> dict[str, str]:
    """What runs inside: `machine`, `python`, `numpy`, `onnxruntime`. Raises RootError like `run`, and when a
    package cannot be imported there or the machine is not aarch64.
    """
    done = run(root, ["python3", "-c", _VERSIONS], mounts={}, timeout_s=300)
    if done.returncode:
        raise RootError(
            f"the packages cannot be imported there, status {done.returncode}: {_last_line(done)}"
        )
    found: dict[str, str] = json.loads(done.stdout)
    if found["machine"] != "aarch64":
        raise RootError(f"{root} is a root for {found['machine']}, not for aarch64")
    return found


def _entering(root: Path, argv: Sequence[str], mounts: Mapping[str, Path]) -> list[str]:
    """The host command that runs `argv` inside `root`, in mount and process namespaces that end with it."""
    # The kernel hands every aarch64 program to qemu, also those that the command starts. The rule goes with the
    # last mount of binfmt_misc, before Linux 6.7 with the next boot. It has a name of its own: one that is there
    # already may look for its interpreter inside the root.
    rule = f"{_BINFMT}/ndsc-aarch64"
    register = f"sed 's/^:qemu-aarch64:/:ndsc-aarch64:/' {_BINFMT_RULE} >{_BINFMT}/register"
    enter = [
        f"{{ [ -e {_BINFMT}/register ] || mount -t binfmt_misc binfmt_misc {_BINFMT}; }}",
        f"{{ [ -e {rule} ] || {register} || [ -e {rule} ]; }}",  # the last: another run was quicker
        f"mount -t proc proc {shlex.quote(str(root / 'proc'))}",
        # Without it onnxruntime cannot count the processors, and aborts on import.
        f"mount -t sysfs -o ro sysfs {shlex.quote(str(root / 'sys'))}",
    ]
    for inside, outside in mounts.items():
        point = PurePosixPath(inside)
        if not point.is_absolute() or ".." in point.parts or not outside.is_dir():
            raise RootError(f"cannot mount {outside} at {inside!r}: not a folder, or not an absolute path")
        target = shlex.quote(str(root / point.relative_to("/")))
        enter += [f"mkdir -p {target}", f"mount -o bind,ro {shlex.quote(str(outside.resolve()))} {target}"]
    script = [
        f"reason=$( {{ {' && '.join(enter)}; }} 2>&1 ) || {{",
        f'echo "{_NOT_ENTERED}: $(echo "$reason" | head -n 1)" >&2; exit 1; }}',
        # Not exec: as process 1 of its namespace the command would be deaf to the signal that it dies of.
        shlex.join(["chroot", str(root), *argv]),
        "exit $?",
    ]
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "sh", "-c", "\n".join(script)]


def _call(argv: Sequence[str], env: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        env=env,
        check=False,
    )


def _step(name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
    try:
        done = _call(argv, env, _STEP_TIMEOUT_S)
    except FileNotFoundError as error:
        raise RootError(f"{name} failed: there is no {argv[0]} here") from error
    except subprocess.TimeoutExpired as error:
        raise RootError(f"{name} failed: not done after {_STEP_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise RootError(f"{name} failed: {_last_line(done)}")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}, no output"


def _pins() -> list[str]:
    """The packages as `name==version`."""
    pins = dict(line.split("==") for line in _CONSTRAINTS.read_text().splitlines() if "==" in line)
    versions_of = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    return [f"onnxruntime=={ONNXRUNTIME}", *(f"{name}=={versions_of[name]}" for name in PACKAGES)]


def main() -> None:
    """Prepare the root named on the command line and print what is inside."""
    parser = argparse.ArgumentParser(description="Make a Debian arm64 root for runs under emulation.")
    parser.add_argument("root", type=Path, help="folder of the root; made when it is not there")
    root: Path = parser.parse_args().root
    try:
        prepare(root)
        for name, version in versions(root).items():
            print(f"{name:12} {version}")
    except RootError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
