"""compose.yaml brought up without a container runtime: its files, secrets, commands, health checks and names."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.compose import ROOT, Composition, Service, composition
from kit.needs import needs
from kit.postgres import Account, binaries

SECRETS = {"database-password": "a-password\n", "http-token": "a-token-of-some-length\n"}
MILEPOST = (sys.executable, "-m", "milepost")
SIMULATE = (*MILEPOST, "simulate", "--pages", "1", "--conversations", "60", "--arrivals", "0")
WORKERS = 3  # the first, and the replicas of the profile `workers`
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.1
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    needs("ip", "iproute2"),
    needs("curl"),
    needs("prometheus"),
    needs("prometheus-alertmanager"),
]


def wait_until(condition: Callable[[], object], *logs: Path) -> None:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, "\n".join(log.read_text()[-3000:] for log in logs)
        time.sleep(POLL_SECONDS)


def simulated(folder: Path) -> Path:
    """Return compose/milepost.yaml with the pages of a simulator, which is local to each Milepost."""
    with subprocess.Popen(SIMULATE, stdout=subprocess.PIPE, text=True) as simulator:
        assert simulator.stdout is not None
        lines = []
        for line in simulator.stdout:
            lines.append(line)
            if "instagram_account_id" in line:
                break
        simulator.terminate()
    world = yaml.safe_load("".join(lines))
    settings = yaml.safe_load((ROOT / "compose/milepost.yaml").read_text())
    settings["source"]["base_url"] = world["source"]["base_url"]
    settings["pages"] = world["pages"]
    changed = folder / "milepost.yaml"
    changed.write_text(yaml.safe_dump(settings))
    return changed


@contextmanager
def postgres(services: Composition) -> Iterator[None]:
    """Run PostgreSQL as its image does: at first for itself alone, to create the database, and then for all."""
    service, described = services.add("postgres"), services.described["services"]["postgres"]
    account, environment, check = Account(), described["environment"], described["healthcheck"]["test"]
    assert check[0] == "CMD"
    with account.data_folder() as folder:
        folder.chmod(0o755)
        programs, data = account.reach(binaries("newest"), folder), folder / "data"
        given = service.run("cat", environment["POSTGRES_PASSWORD_FILE"])
        (folder / "password").write_text(given.stdout)
        user = (
            ()
            if account.user is None
            else ("setpriv", f"--reuid={account.user}", f"--regid={account.group}", "--clear-groups")
        )
        passwords = ("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={folder / 'password'}")
        made = service.run(*user, programs / "initdb", "-D", data, "-U", environment["POSTGRES_USER"], *passwords)
        assert made.returncode == 0, made.stderr
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")

        def is_healthy() -> bool:
            return service.run(programs / check[1], *check[2:], PGHOST=str(folder)).returncode == 0

        server = (*user, programs / "postgres", "-D", data, "-k", folder)
        with service.running(*server, "-c", "listen_addresses=") as log:
            wait_until(lambda: "ready to accept connections" in log.read_text(), log)
            created = service.run(
                programs / "createdb", "-h", folder, "-U", environment["POSTGRES_USER"], environment["POSTGRES_DB"]
            )
            assert created.returncode == 0, created.stderr
            assert not is_healthy(), "nobody else can connect yet"
        with service.running(*server, "-c", "listen_addresses=*") as log:
            wait_until(is_healthy, log)
            yield


@contextmanager
def milepost(services: Composition, name: str) -> Iterator[tuple[Service, Path]]:
    """Run Milepost as its image does, beside a simulator on its own loopback interface."""
    service = services.add(name, "/etc/milepost")
    with service.running(*SIMULATE) as simulator:
        wait_until(lambda: "base_url" in simulator.read_text(), simulator)
        with service.running(*MILEPOST, "run", MILEPOST_CONFIG="/etc/milepost/config.yaml") as log:
            wait_until(lambda: '"started"' in log.read_text(), log)
            yield service, log


def asked(service: Service, url: str, *options: str) -> dict[str, Any]:
    """Ask one service from inside another one; nothing comes back while it is starting."""
    done = service.run("curl", "-s", "--max-time", "10", *options, url)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return found


def test_it_comes_up_by_its_own_files(tmp_path: Path) -> None:
    with composition(tmp_path, SECRETS) as services, ExitStack() as stack:
        services.replaced["./compose/milepost.yaml"] = simulated(tmp_path)
        stack.enter_context(postgres(services))
        workers = [stack.enter_context(milepost(services, name)) for name in ("milepost", "worker", "worker")]
        addresses, logs = {worker.address for worker, _ in workers}, [log for _, log in workers]
        alertmanager = services.add("alertmanager", "/etc/alertmanager", "/alertmanager")
        command = services.described["services"]["alertmanager"]["command"]
        stack.enter_context(alertmanager.running("prometheus-alertmanager", *command))
        prometheus = services.add("prometheus", "/etc/prometheus", "/prometheus")
        log = stack.enter_context(
            prometheus.running(
                "prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"
            )
        )

        def streams() -> list[str]:
            """Return the states of the streams, by the name that the services have for Milepost."""
            bearer = f"Authorization: Bearer {SECRETS['http-token'].strip()}"
            found = asked(prometheus, "http://milepost:9464/api/streams", "-H", bearer)
            return [stream["state"] for stream in found.get("streams", ())]

        def up() -> set[str]:
            """Return the addresses that Prometheus scrapes, with the token, and finds by their name."""
            found = asked(prometheus, "http://localhost:9090/api/v1/query?query=up").get("data", {"result": ()})
            scraped = (each["metric"]["instance"] for each in found["result"] if each["value"][1] == "1")
            return {instance.partition(":")[0] for instance in scraped}

        def receivers() -> list[str]:
            found = asked(prometheus, "http://localhost:9090/api/v1/alertmanagers").get("data", {})
            return [each["url"] for each in found.get("activeAlertmanagers", ())]

        wait_until(lambda: streams() == ["complete"] * 2, *logs)
        wait_until(lambda: up() == addresses, log)
        assert len(workers) == WORKERS == 1 + services.described["services"]["worker"]["deploy"]["replicas"]
        wait_until(lambda: receivers() == ["http://alertmanager:9093/api/v2/alerts"], log)
        wait_until(lambda: "config" in asked(prometheus, "http://alertmanager:9093/api/v2/status"), log)
