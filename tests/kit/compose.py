"""The services of compose.yaml, each in a network and a mount namespace of its own, as a container runtime runs them.

It needs no runtime and no registry: the programs are those of this machine. The rest is taken from compose.yaml:
mounted files, secrets, environment, commands, health checks, and the services' names.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SUBNET, GATEWAY = "10.89.7", "10.89.7.1"
# Makes what images have but this machine may lack: the folders for mounts, and the resolver of the network.
START = r"""
set -eu
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir -p /run/secrets
printf 'nameserver %s\noptions ndots:0\n' "$GATEWAY" > /run/resolv.conf
mount --bind /run/resolv.conf "$(readlink -f /etc/resolv.conf)"
echo '127.0.0.1 localhost' > /run/hosts
mount --bind /run/hosts /etc/hosts
for each in $SECRETS; do
    touch "/run/secrets/${each%%=*}"
    mount --bind "${each#*=}" "/run/secrets/${each%%=*}"
done
for folder in $FOLDERS; do
    mkdir -p "$folder"
    mount -t tmpfs tmpfs "$folder"
done
for each in $FILES; do
    mkdir -p "$(dirname "${each#*=}")"
    touch "${each#*=}"
    mount --bind "${each%%=*}" "${each#*=}"
    mount -o remount,bind,ro "${each#*=}"
done
touch "$READY"
exec "$@"
"""
HOLD = ("sleep", "600")
POLL_SECONDS = 0.02


class Service:
    """A running service: its namespaces, in which further commands run, and its address."""

    def __init__(self, name: str, address: str, holder: subprocess.Popen[bytes], folder: Path) -> None:
        self.name = name
        self.address = address
        self.folder = folder
        self.logs = 0
        self._holder = holder

    def inside(self, *command: str | Path) -> list[str]:
        """Return the command that runs another one inside the service's namespaces."""
        return ["nsenter", "-t", str(self._holder.pid), "-m", "-n", *map(str, command)]

    def run(self, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(*command),
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def running(self, *command: str | Path, **environment: str) -> Iterator[Path]:
        """Run a program inside during the block; yields its log."""
        self.logs += 1
        log = self.folder / f"{self.logs}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self.inside(*command), env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        try:
            yield log
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Composition:
    """The network of the services. `replaced` are files of the project that are mounted changed."""

    def __init__(self, folder: Path, secrets: Mapping[str, str], stack: ExitStack) -> None:
        self.described: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
        self.replaced: dict[str, Path] = {}
        self._folder = folder
        self._secrets = secrets
        self._stack = stack
        self._addresses: dict[str, list[str]] = {}
        self._gateway = self._namespace("gateway")
        for command in (
            "ip link add bridge0 type bridge",
            f"ip addr add {GATEWAY}/24 dev bridge0",
            "ip link set bridge0 up",
        ):
            self._in(self._gateway, command)
        self._stack.enter_context(self._resolver())

    def add(self, name: str, *folders: str) -> Service:
        """Start a container of a service with nothing running in it yet. `folders` are the folders of its image."""
        described = self.described["services"][name]
        number = sum(map(len, self._addresses.values())) + 2
        holder = self._namespace(f"{name}-{number}", **self._mounts(described, folders))
        address = f"{SUBNET}.{number}"
        self._in(self._gateway, f"ip link add v{number} type veth peer name eth0 netns {holder.pid}")
        self._in(self._gateway, f"ip link set v{number} master bridge0 up")
        self._in(holder, f"ip addr add {address}/24 dev eth0")
        self._in(holder, "ip link set eth0 up")
        networks = described.get("networks", {}).get("default", {})
        for each in (name, *networks.get("aliases", ())):
            self._addresses.setdefault(each, []).append(address)
        return Service(name, address, holder, self._folder / f"{name}-{number}")

    def _mounts(self, described: Mapping[str, Any], folders: Sequence[str]) -> dict[str, str]:
        files = (volume.split(":") for volume in described.get("volumes", ()) if volume.startswith("./"))
        sources = {inside: self.replaced.get(source, ROOT / source) for source, inside, *_ in files}
        for secret in described.get("secrets", ()):
            (self._folder / secret).write_text(self._secrets[secret])
        return {
            "SECRETS": " ".join(f"{each}={self._folder / each}" for each in described.get("secrets", ())),
            "FILES": " ".join(f"{source}={inside}" for inside, source in sources.items()),
            "FOLDERS": " ".join(folders),
        }

    def _namespace(self, name: str, **mounts: str) -> subprocess.Popen[bytes]:
        folder = self._folder / name
        folder.mkdir()
        ready = folder / "ready"
        environment = {"SECRETS": "", "FILES": "", "FOLDERS": "", "GATEWAY": GATEWAY, "READY": str(ready)} | mounts
        log = (folder / "start.log").open("wb")
        process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation=private", "sh", "-c", START, "sh", *HOLD],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        self._stack.callback(_end, process)
        while not ready.exists():
            assert process.poll() is None, (folder / "start.log").read_text()
            time.sleep(POLL_SECONDS)
        return process

    @staticmethod
    def _in(holder: subprocess.Popen[bytes], command: str) -> None:
        subprocess.run(["nsenter", "-t", str(holder.pid), "-n", *command.split()], check=True, timeout=60)

    @contextmanager
    def _resolver(self) -> Iterator[None]:
        """Answer for the names of the services, as the runtime's own DNS does."""
        with _socket_in(self._gateway.pid) as server:
            thread = threading.Thread(target=self._answer, args=(server,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                with suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
                server.close()
                thread.join(5)

    def _answer(self, server: socket.socket) -> None:
        while True:
            try:
                question, client = server.recvfrom(512)
            except OSError:
                return
            if not question:
                return
            with suppress(OSError):
                server.sendto(self._response(question), client)

    def _response(self, question: bytes) -> bytes:
        """Return the response to a DNS question (RFC 1035): addresses, no records, or no such name."""
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        asked, is_for_ipv4 = question[12 : at + 5], question[at + 1 : at + 3] == b"\x00\x01"
        found = self._addresses.get(".".join(labels))
        addresses = found if found is not None and is_for_ipv4 else []
        flags = b"\x84\x00" if found is not None else b"\x84\x03"
        head = question[:2] + flags + b"\x00\x01" + len(addresses).to_bytes(2) + bytes(4)
        record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04"
        return head + asked + b"".join(record + socket.inet_aton(each) for each in addresses)


@contextmanager
def composition(folder: Path, secrets: Mapping[str, str]) -> Iterator[Composition]:
    """Make the network, without services yet. Skips the test where that is impossible."""
    if os.geteuid() != 0:
        pytest.skip("only root may make networks")
    with ExitStack() as stack:
        yield Composition(folder, secrets, stack)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@contextmanager
def _socket_in(pid: int) -> Iterator[socket.socket]:
    """Open the port of a resolver in another network namespace: a helper opens it there, and passes it here."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    opening = (
        "import socket, sys;"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        f"s.bind(('{GATEWAY}', 53));"
        "c = socket.socket(fileno=int(sys.argv[1]));"
        "socket.send_fds(c, [b'x'], [s.fileno()])"
    )
    with ours, theirs:
        subprocess.run(
            ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", opening, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            check=True,
            timeout=60,
        )
        _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
    server = socket.socket(fileno=descriptor)
    server.setblocking(True)
    try:
        yield server
    finally:
        server.close()
