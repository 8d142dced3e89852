"""Milepost as a systemd service in a lab, installed by its own script, with a simulator as its source."""

import fcntl
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.installation import COPIED, Rows
from kit.systemd_lab import Lab, booted, why_not
from milepost.core.model import Platform, Stream
from milepost.simulator.plan import SimulatedPage, made_up_page

ROOT = Path(__file__).parents[2]
SOURCE, WHEELS = "/usr/src/milepost", "/usr/src/wheels"
NOT_INSTALLED = (".git", ".venv", ".*_cache", "__pycache__", "node_modules")
OFFLINE = (f"PIP_FIND_LINKS={WHEELS}", "PIP_NO_INDEX=1", "PIP_CONFIG_FILE=/dev/null")
INSTALLED = ("opt/milepost", "etc/milepost", "etc/credstore", "usr/local/bin/milepost", "usr/src/wheels")
UNITS = ("milepost.service", "milepost@.service", "milepost-sync.service", "milepost-sync.timer")

PYTHON = "/usr/bin/python3"  # the system's: a service cannot reach one below /root
DATABASE = "/var/lib/milepost/milepost.db"
CONFIG = "/etc/milepost/config.yaml"
TOKEN = "/etc/credstore/milepost.access-token"
PORT = 9470
BASE_URL = f"http://127.0.0.1:{PORT}"
PAGE = made_up_page(1, 0)
OTHER_PAGE = made_up_page(1, 1)
STREAM = Stream(Platform.MESSENGER, PAGE.id).key
# Shorter delays than the shipped ones, which a test need not wait for.
FAST = "[Service]\nRestartSec=100ms\n"

INSTALL_SECONDS = 300.0

Json = dict[str, Any]


class Service:
    """milepost.service in a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def simulate(self, conversations: int, faults: str = "calm", pages: int = 1) -> None:
        """Serve a frozen world."""
        options = f"--port {PORT} --pages {pages} --conversations {conversations} --arrivals 0 --faults {faults}"
        program = ["/opt/milepost/current/bin/milepost", "simulate", *options.split()]
        self.lab.run("systemd-run", "--quiet", "--unit=simulator", *program)
        self.lab.until(lambda: self.lab.tried("bash", "-c", f"< /dev/tcp/127.0.0.1/{PORT}").returncode == 0, "a world")

    def configure(self, *pages: SimulatedPage, unit: str = "milepost", **sections: Json | list[Json]) -> None:
        """Write the configuration for pages of the simulator, by default for the first one's Messenger inbox.

        The first page's token is the credential that the unit names; other tokens are written out.
        """
        first, *others = pages or (PAGE,)
        token = {"access_token_file": f"${{CREDENTIALS_DIRECTORY}}/{unit}.access-token"}
        settings = {
            "store": {"url": f"sqlite:////var/lib/{unit}/milepost.db"},
            "source": {"kind": "facebook", "base_url": BASE_URL, "calls_per_second": 0},
            "pages": [_page(first) | token, *(_page(page) | {"access_token": page.token} for page in others)],
            **sections,
        }
        name = unit.removeprefix("milepost-") if unit != "milepost" else "config"
        self.lab.write(f"/etc/milepost/{name}.yaml", yaml.safe_dump(settings))

    def hand_over_token(self, page: SimulatedPage = PAGE, unit: str = "milepost") -> None:
        """Write the token to where the unit reads its credentials."""
        self.lab.write(f"/etc/credstore/{unit}.access-token", f"{page.token}\n", mode="600")

    def change_unit(self, drop_in: str) -> None:
        """Add a drop-in to the unit, and one that shortens the restart delay."""
        self.lab.write("/etc/systemd/system/milepost.service.d/test.conf", f"{FAST}{drop_in}")
        self.lab.run("systemctl", "daemon-reload")

    def start(self) -> None:
        self.lab.run("systemctl", "start", "milepost")

    def stop(self) -> None:
        self.lab.run("systemctl", "stop", "milepost")

    def shown(self, key: str) -> str:
        return self.lab.shown("milepost", key)

    def until_restarted(self) -> None:
        """Wait until systemd has restarted the service once and it is ready."""
        restarted = ["1", "active"]
        self.lab.until(lambda: [self.shown("NRestarts"), self.shown("ActiveState")] == restarted, "a restart")

    def rows(self, query: str, database: str = DATABASE) -> Rows:
        """Query the database; empty if the table or the database does not exist yet."""
        program = (
            "import json, sqlite3, sys\n"
            "try:\n"
            "    connection = sqlite3.connect(sys.argv[1], uri=True, timeout=30)\n"
            "    print(json.dumps(connection.execute(sys.argv[2]).fetchall()))\n"
            "except sqlite3.OperationalError: print([])\n"
        )
        found = self.lab.run(PYTHON, "-c", program, f"file:{database}?mode=rw", query)
        return [tuple(row) for row in json.loads(found)]

    def batches(self) -> int:
        """Return how many batches are stored."""
        found = self.rows("SELECT count(*) FROM journal WHERE type = 'batch_stored'")
        return int(found[0][0]) if found else 0

    def until_stored(self, batches: int) -> None:
        self.lab.until(lambda: self.batches() >= batches, f"{batches} batches")

    def until_complete(self, stream: str = STREAM, database: str = DATABASE) -> None:
        query = f"SELECT 1 FROM runs WHERE stream = '{stream}' AND status = 'complete'"
        self.lab.until(lambda: self.rows(query, database), f"a whole sweep of {stream}")

    def copied(self, database: str = DATABASE) -> dict[str, Rows]:
        """Return the copied tables, each ordered by its key."""
        return {
            table: self.rows(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3", database)
            for table, columns in COPIED.items()
        }

    def undisturbed(self) -> dict[str, Rows]:
        """Copy the same world in one go, apart from the service, and return the tables."""
        folder = "/srv/undisturbed"
        database = f"{folder}/milepost.db"
        settings = {**yaml.safe_load(self.lab.run("cat", CONFIG)), "store": {"url": f"sqlite:///{database}"}}
        self.lab.write(f"{folder}/config.yaml", yaml.safe_dump(settings))
        self.lab.run("milepost", "sync", "-c", f"{folder}/config.yaml")
        return self.copied(database)

    def positions(self) -> list[str | None]:
        """Return the cursors of the sweep from the journal, oldest first."""
        found = self.rows(
            "SELECT data ->> '$.position.cursor' FROM journal WHERE type = 'batch_stored'"
            " AND data ->> '$.position.phase' IS NULL ORDER BY seq"
        )
        return [cursor for (cursor,) in found]

    def asked_cursors(self) -> list[str | None]:
        """Return the cursors that were requested from the simulator, oldest first."""
        asked: list[Json] = json.loads(self.fetched(f"{BASE_URL}/simulator/requests"))["last"]
        return [request["after"] for request in asked if request["edge"] == "conversations"]

    def act(self, action: str, **arguments: object) -> None:
        """Call an action of the simulator; docs/simulator.md lists them."""
        program = (
            "import sys, urllib.request as web; web.urlopen(web.Request(sys.argv[1], sys.argv[2].encode(),"
            " {'Content-Type': 'application/json'}), timeout=60)"
        )
        self.lab.run(PYTHON, "-c", program, f"{BASE_URL}/simulator/{action}", json.dumps(arguments))

    def fetched(self, url: str) -> str:
        program = (
            "import sys, urllib.request as web; sys.stdout.buffer.write(web.urlopen(sys.argv[1], timeout=60).read())"
        )
        return self.lab.run(PYTHON, "-c", program, url)

    def log(self, *matches: str) -> list[Json]:
        """Return the matching entries of journald with their fields."""
        self.lab.run("journalctl", "--sync")
        found = self.lab.run("journalctl", "-u", "milepost", "--no-pager", "-o", "json", *matches)
        return [json.loads(line) for line in found.splitlines()]

    def until_logged(self, text: str) -> Json:
        """Wait until an entry's message contains the text, and return the entry."""
        found: list[Json] = []

        def is_logged() -> bool:
            found[:] = [entry for entry in self.log() if text in str(entry["MESSAGE"])]
            return bool(found)

        self.lab.until(is_logged, f"{text!r} in the log")
        return found[0]


@contextmanager
def installed_service(folder: Path, layer: Path) -> Iterator[Service]:
    """Boot a lab in which Milepost is installed but not configured or started."""
    with booted(folder / "lab", layer) as lab:
        yield Service(lab)


def install(lab: Lab, *arguments: str) -> str:
    """Run the installation script in the lab."""
    return lab.run("env", *OFFLINE, f"{SOURCE}/systemd/install.sh", *arguments, seconds=INSTALL_SECONDS)


def installed_layer(engine: Path) -> Path:
    """Install Milepost in a lab, and return a folder with the result, which other labs use as a layer.

    The first of the processes that share a folder creates it; the others wait.
    """
    reason = why_not() or _lacks_python()
    if reason is not None:
        pytest.skip(f"no systemd can be booted: {reason}")
    layer = engine / "installed"
    with (engine / "installed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (layer / "opt").exists():
            _fetch_wheels(engine / "wheels")
            with booted(engine / "installing") as lab:
                lab.put(engine / "wheels", WHEELS)
                lab.put(ROOT, SOURCE, NOT_INSTALLED)
                install(lab)
                layer.mkdir()
                lab.take((*INSTALLED, *(f"etc/systemd/system/{unit}" for unit in UNITS)), layer)
    return layer


def _lacks_python() -> str | None:
    reason = f"{PYTHON} is not 3.11 or newer with venv: apt-get install --no-install-recommends python3-venv"
    program = "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))"
    tried = subprocess.run([PYTHON, "-c", program], capture_output=True, check=False) if Path(PYTHON).exists() else None
    return None if tried is not None and tried.returncode == 0 else reason


def _fetch_wheels(folder: Path) -> None:
    """Download what install.sh installs, for the system's Python. Skips the test if that is not possible."""
    pip = folder.with_name("pip")  # a separate environment: the tests' own may lack pip
    subprocess.run([PYTHON, "-m", "venv", pip], check=True, timeout=INSTALL_SECONDS)
    command: list[str | Path] = [
        pip / "bin" / "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
    ]
    what: list[str | Path] = ["-r", ROOT / "requirements.lock", "-d", folder]
    fetched = subprocess.run([*command, *what], capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    if fetched.returncode != 0:
        pytest.skip(f"the dependencies cannot be fetched for {PYTHON}: {fetched.stderr[-500:]}")


def _page(page: SimulatedPage) -> Json:
    return {"id": page.id, "platforms": ["messenger"]}
