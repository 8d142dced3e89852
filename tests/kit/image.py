"""The OCI image, built with buildah, and run as its configuration says: read-only, without root and without a shell.

It needs no container runtime, and works inside a container, too: namespaces do what a runtime would do.
"""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kit.binary import until

ROOT = Path(__file__).parents[2]
BASE = "MILEPOST_TEST_BASE"  # an image that buildah can reach; without it a minimal Debian is made
DEBIAN = ("--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm")
# Files of this machine that a build needs to reach a package index, as a base image of one's own would have them.
OF_THIS_MACHINE = (
    (Path("/etc/ssl/certs/ca-certificates.crt"), "/etc/ssl/certs/ca-certificates.crt"),
    (Path.home() / ".config/pip/pip.conf", "/etc/pip.conf"),
)
BUILD_SECONDS = 600

# Makes the mounts of a runtime, hides every shell, makes the rest read-only, and becomes the program.
START = r"""
set -eu
ip link set lo up
mount --bind "$ROOT" "$ROOT"
mkdir -p "$ROOT/etc/milepost" "$ROOT/run/secrets"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount --rbind /dev "$ROOT/dev"
mount --bind "$MOUNTS/data" "$ROOT/var/lib/milepost"
mount --bind "$MOUNTS/etc" "$ROOT/etc/milepost"
mount --bind "$MOUNTS/secrets" "$ROOT/run/secrets"
for shell in sh dash bash; do
    path=$(readlink -f "$ROOT/bin/$shell" || true)
    [ ! -f "$path" ] || mount --bind /dev/null "$path"
done
mount -o remount,bind,ro "$ROOT"
exec env -i "$@"
"""


@dataclass(frozen=True)
class Image:
    """The image: its files, and its configuration (OCI image specification, with Docker's health check)."""

    root: Path
    config: dict[str, Any]

    @property
    def user(self) -> str:
        return str(self.config["User"]).partition(":")[0]


@dataclass(frozen=True)
class Container:
    """A running program of the image."""

    image: Image
    process: asyncio.subprocess.Process
    log: Path

    async def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as its user."""
        user = self.image.user
        inside = ["nsenter", "-t", str(self.process.pid), "-m", "-n", "-r", "-w", "-S", user, "-G", user]
        return await asyncio.to_thread(
            subprocess.run,
            [*inside, "env", "-i", *self.image.config["Env"], *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    async def says(self, text: str) -> None:
        await until(lambda: text in self.log.read_text() or self.process.returncode is not None)
        assert text in self.log.read_text(), self.log.read_text()


def built(folder: Path) -> Image:
    """Build the image and return it. Skips the test with a reason if that is impossible."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount what a container sees")
    buildah = ["buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver=vfs"]
    base = os.environ.get(BASE) or _debian(buildah, folder)
    volumes = [f"--volume={file}:{inside}:ro" for file, inside in OF_THIS_MACHINE if file.exists()]
    _run([*buildah, "bud", "--format=docker", "--isolation=chroot", *volumes, f"--build-arg=BASE={base}",
          "-t", "localhost/milepost", "-f", "Containerfile", "."])  # fmt: skip
    container = _run([*buildah, "from", "localhost/milepost"]).strip()
    described = json.loads(_run([*buildah, "inspect", "--type", "image", "localhost/milepost"]))
    return Image(Path(_run([*buildah, "mount", container]).strip()), described["Docker"]["config"])


def _debian(buildah: Sequence[str], folder: Path) -> str:
    """Make an image of a minimal Debian, and return its name."""
    if shutil.which("debootstrap") is None:
        pytest.skip(f"debootstrap is missing and {BASE} names no image")
    root = folder / "debian"
    made = subprocess.run(
        ["debootstrap", *DEBIAN, root], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no Debian mirror is reached here, and {BASE} names no image: {made.stdout.splitlines()[-1:]}")
    container = _run([*buildah, "from", "scratch"]).strip()
    mounted = _run([*buildah, "mount", container]).strip()
    subprocess.run(["cp", "-a", f"{root}/.", mounted], check=True, timeout=BUILD_SECONDS)
    _run([*buildah, "commit", "-q", container, "localhost/debian-python"])
    return "localhost/debian-python"


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@asynccontextmanager
async def running(image: Image, mounts: Path, *arguments: str) -> AsyncIterator[Container]:
    """Run the image during the block. `mounts` has the folders `data`, `etc` and `secrets` that it sees."""
    config, log = image.config, mounts / "log"
    program = [*config["Entrypoint"], *(arguments or config["Cmd"])]
    inside = ["unshare", f"--root={image.root}", f"--wd={config['WorkingDir']}", "-S", image.user, "-G", image.user]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--mount", "--net", "--propagation=private"),
            *("sh", "-c", START, "sh", *config["Env"], *inside, *program),
            env=os.environ | {"ROOT": str(image.root), "MOUNTS": str(mounts)},
            stdout=out,
            stderr=out,
        )
    try:
        yield Container(image, process, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
