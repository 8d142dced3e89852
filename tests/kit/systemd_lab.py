"""A temporary systemd: PID 1 in its own namespaces, over a copy-on-write view of this machine.

Writes in a lab go to memory and are lost with it. Its network has only a loopback interface. It shares the kernel with
this machine, but cannot change the kernel's clock, modules, log or settings.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

INIT = Path(__file__).with_name("lab_init.sh")
PACKAGES = {  # Debian packages by program
    "systemctl": "systemd",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "pivot_root": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
}
BOOT_SECONDS = 60.0
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.05
BOOT_POLL_SECONDS = 0.2  # each look starts three programs
UNPACK = ("tar", "-xf", "-", "-C")
HALT = signal.SIGRTMIN + 3  # systemd(1): "halts the machine"


class Lab:
    """A running lab. `init` is the process id of its systemd, seen from outside."""

    def __init__(self, init: int) -> None:
        self._enter = ["nsenter", f"--target={init}", "--all", "--root", "--wd"]

    def run(self, *command: str, given: str = "", seconds: float = PATIENCE_SECONDS) -> str:
        """Run a command in the lab as root, and return its output. Fails the test if the command fails."""
        ended = self.tried(*command, given=given, seconds=seconds)
        assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def tried(
        self, *command: str, given: str = "", seconds: float = PATIENCE_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the lab, whatever its result."""
        return subprocess.run(
            [
                *self._enter,
                "env",
                "-i",
                "HOME=/root",
                "LANG=C.UTF-8",
                "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                *command,
            ],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file, creating its folders."""
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, given=text)

    def put(self, tree: Path, path: str, leaving_out: Sequence[str] = ()) -> None:
        """Copy a folder of this machine into the lab."""
        self.run("mkdir", "-p", path)
        excluded = [f"--exclude={each}" for each in leaving_out]
        _copy(["tar", "-C", str(tree), *excluded, "-cf", "-", "."], [*self._enter, *UNPACK, path, "--no-same-owner"])

    def take(self, paths: Sequence[str], folder: Path) -> None:
        """Copy files and folders out of the lab, with their modes, to the same paths below a folder of this machine."""
        pack = ["tar", "-C", "/", "-cf", "-", *(path.lstrip("/") for path in paths)]
        _copy([*self._enter, *pack], [*UNPACK, str(folder), "--preserve-permissions"])

    def shown(self, unit: str, key: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", unit, "--property", key, "--value").strip()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until the condition is true. If that takes too long, fails the test with the end of the log.

        Most of the time is left to the others: most conditions start a program, or two.
        """
        ends_at = (began := time.monotonic()) + PATIENCE_SECONDS
        while not condition():
            if (looked := time.monotonic()) > ends_at:
                raise AssertionError(f"not in time: {what}\n{self.run('journalctl', '--no-pager', '-n', '60')}")
            time.sleep(max(POLL_SECONDS, 2 * (looked - began)))
            began = time.monotonic()


def _copy(pack: Sequence[str], unpack: Sequence[str]) -> None:
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        subprocess.run(unpack, stdin=packing.stdout, check=True)
    assert packing.returncode == 0, pack


def why_not() -> str | None:
    """Return why no lab can be booted here, or None if one can."""
    lacking = sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None})
    if lacking:
        return f"missing programs: apt-get install --no-install-recommends {' '.join(lacking)}"
    if os.geteuid() != 0:
        return "only root can boot a systemd of its own"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--cgroup", "--net", "mount", "-t", "tmpfs", "lab", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces can be made here: {tried.stderr.strip()}" if tried.returncode != 0 else None


@contextmanager
def booted(folder: Path, layer: Path | None = None) -> Iterator[Lab]:
    """Run a lab during the block, with the contents of `layer` over this machine's root; creates `folder`.

    Skips the test if that is not possible.
    """
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no systemd can be booted: {reason}")
    folder.mkdir()
    groups = [hierarchy / f"lab-{folder.name}-{os.getpid()}-{time.monotonic_ns()}" for hierarchy in _hierarchies()]
    try:
        for group in groups:
            _make_group(group)
        with (folder.with_name(f"{folder.name}.console")).open("w+b") as console:
            launcher = _launch(folder, layer, groups, console.fileno())
            try:
                lab = _awaited(launcher, Path(console.name))
                yield lab
            finally:
                _halt(launcher)
    finally:
        for group in groups:
            _remove_group(group)


def _hierarchies() -> list[Path]:
    base = Path("/sys/fs/cgroup")
    return [base] if (base / "cgroup.procs").exists() else [each.parent for each in base.glob("*/cgroup.procs")]


def _make_group(group: Path) -> None:
    group.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):  # in cgroup v1 they start empty, and then no process can join
        if (group.parent / name).exists():
            (group / name).write_text((group.parent / name).read_text())


def _launch(folder: Path, layer: Path | None, groups: Sequence[Path], console: int) -> subprocess.Popen[bytes]:
    join = "for group; do echo $$ > $group/cgroup.procs; done"
    spaces = "--mount --pid --fork --uts --ipc --cgroup --net --kill-child"
    script = f'lab=$1 layer=$2; shift 2; {join}; exec unshare {spaces} sh "{INIT}" "$lab" "$layer"'
    return subprocess.Popen(
        ["sh", "-euc", script, "sh", str(folder), str(layer or ""), *map(str, groups)],
        stdin=subprocess.DEVNULL,
        stdout=console,
        stderr=console,
    )


def _awaited(launcher: subprocess.Popen[bytes], console: Path) -> Lab:
    """Wait until the lab is up."""
    ends_at = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < ends_at and launcher.poll() is None:
        init = _child_of(launcher.pid)
        if init is not None:
            lab = Lab(init)
            if lab.tried("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}:
                return lab
        time.sleep(BOOT_POLL_SECONDS)
    raise AssertionError(f"the lab did not come up\n{console.read_text(errors='replace')}")


def _child_of(process: int) -> int | None:
    with suppress(FileNotFoundError):
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return int(children[0]) if children else None
    return None


def _halt(launcher: subprocess.Popen[bytes]) -> None:
    init = _child_of(launcher.pid)
    if init is not None:
        os.kill(init, HALT)
    try:
        launcher.wait(timeout=10)
    except subprocess.TimeoutExpired:
        launcher.kill()  # which ends its child as well
        launcher.wait()


def _remove_group(group: Path) -> None:
    """Remove a control group and its children, once the kernel has reaped their last processes."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends_at:
        for each in sorted(group.rglob("*/"), key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):
                each.rmdir()
        with suppress(OSError):
            group.rmdir()
        if not group.exists():
            return
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"left behind: {group}")
