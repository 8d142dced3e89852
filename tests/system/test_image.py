"""The OCI image, built and run; and what stands around it in compose.yaml."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.binary import until
from kit.image import Image, built, running
from kit.needs import needs
from milepost.settings.load import load

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
GRACE_SECONDS = 20.0
USER = 10001


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("image")
    yield built(folder)
    shutil.rmtree(folder)  # nearly a gigabyte


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """Return the folders of a container of the profile `simulator`."""
    for name in ("data", "etc", "secrets"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "compose/simulated.yaml", tmp_path / "etc/config.yaml")
    (tmp_path / "secrets/http-token").write_text("a-token-of-some-length\n")
    os.chown(tmp_path / "data", USER, USER)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    return tmp_path


@pytest.mark.long
@pytest.mark.timeout(900)
@needs("buildah")
@needs("ip", "iproute2")
class TestImage:
    def test_it_says_what_it_is_and_runs_as_nobody_in_particular(self, image: Image) -> None:
        config = image.config
        assert config["User"] == f"{USER}:{USER}"
        assert config["StopSignal"] == "SIGTERM"
        assert config["Volumes"] == {"/var/lib/milepost": {}}
        assert config["ExposedPorts"] == {"9464/tcp": {}}
        assert config["Labels"]["org.opencontainers.image.title"] == "Milepost"
        assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT"
        assert config["Healthcheck"]["Test"][0] == "CMD", "no shell"
        assert (image.root / "opt/milepost/share/man/man1/milepost.1").exists()
        assert not (image.root / "opt/milepost/bin/pip").exists()

    async def test_it_copies_is_healthy_and_ends_within_the_grace_period(self, image: Image, mounts: Path) -> None:
        """Its root is read-only, no shell is left in it, and it may do nothing that its user may not."""
        milepost, *_ = image.config["Entrypoint"]
        async with running(image, mounts) as container:
            await container.says("batch stored")
            healthy = await container.run(*image.config["Healthcheck"]["Test"][1:])
            assert healthy.returncode == 0, healthy
            status = await container.run(milepost, "status", "--json")
            assert json.loads(status.stdout)["is_at_work"] is True, status
            began = time.monotonic()
            container.process.send_signal(signal.SIGTERM)
            assert await container.process.wait() == 0, container.log.read_text()
            assert time.monotonic() - began < GRACE_SECONDS
        before = len((mounts / "log").read_text())
        async with running(image, mounts) as container:
            await container.says("batch stored")
            verified = await container.run(milepost, "journal", "verify")
            assert "is sound" in verified.stdout, verified
        assert before > 0
        assert {path.name for path in (mounts / "data").iterdir()} >= {"simulated.db"}

    async def test_without_a_configuration_it_says_where_it_looked(self, image: Image, mounts: Path) -> None:
        (mounts / "etc/config.yaml").unlink()
        async with running(image, mounts) as container:
            await until(lambda: container.process.returncode is not None)
        assert container.process.returncode == 78
        assert "/etc/milepost/config.yaml" in container.log.read_text()


# --- compose.yaml -----------------------------------------------------------------------------------------------------


def test_everything_that_is_mounted_is_in_the_project() -> None:
    sources = [volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())]
    files = [source for source in sources if source.startswith("./")]
    assert files
    assert [source for source in files if not (ROOT / source).exists()] == []
    assert {source for source in sources if not source.startswith("./")} == set(COMPOSE["volumes"])


def test_every_secret_is_a_file_that_is_not_in_the_project() -> None:
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert used == set(COMPOSE["secrets"])
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("./compose/secrets/")
    assert "compose/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_secrets_that_the_page_makes_can_be_read_by_every_container(tmp_path: Path) -> None:
    """Each has a user of its own, and the reader may have a strict umask."""
    making, tokens = shown("compose/secrets", ".env")
    for name in ("compose", "monitoring"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("secrets"))
    mounted = [path for path in tmp_path.rglob("*.*") if path.is_file()]
    for path in mounted:
        path.chmod(0o600)
    subprocess.run(["bash", "-euc", f"umask 077\n{making}\n{tokens}"], cwd=tmp_path, check=True, timeout=60)
    folder = tmp_path / "compose/secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {f"./{path.relative_to(tmp_path)}" for path in folder.iterdir()} == {
        each["file"] for each in COMPOSE["secrets"].values()
    }
    assert [path for path in (*folder.iterdir(), *mounted) if not path.stat().st_mode & 0o004] == []
    assert all(len(path.read_text().strip()) == 64 for path in folder.iterdir())
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    variables = {line.partition("=")[0] for line in (tmp_path / ".env").read_text().splitlines()}
    assert variables <= COMPOSE["x-milepost"]["environment"].keys()


def shown(*parts: str) -> list[str]:
    """Return the blocks of commands on the page about containers that have these in them, in this order."""
    text = (ROOT / "docs/containers.md").read_text()
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [next(block for block in blocks if part in block) for part in parts]


def test_the_page_names_services_and_profiles_that_exist() -> None:
    text = (ROOT / "docs/containers.md").read_text() + (ROOT / "compose.yaml").read_text()
    profiles = set(re.findall(r"--profile (\w+)", text))
    assert profiles == {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    started = re.findall(r"docker compose (?:--profile \w+ )?up -d([ \w]*)", text)
    assert any(started)
    assert {name for each in started for name in each.split()} <= SERVICES.keys()
    assert set(re.findall(r"docker compose exec (\w+)", text)) <= SERVICES.keys()


@pytest.mark.parametrize("name", ["milepost", "worker", "simulated"])
def test_milepost_runs_with_a_read_only_root_no_rights_and_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert float(service["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS


def test_what_is_published_is_for_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_profiles_add_workers_that_prometheus_finds_and_a_simulated_world() -> None:
    assert SERVICES["worker"]["profiles"] == ["workers"]
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert SERVICES["worker"]["networks"]["default"]["aliases"] == ["milepost"]
    assert SERVICES["simulated"]["profiles"] == ["simulator"]
    (scrape,) = yaml.safe_load((ROOT / "compose/prometheus.yml").read_text())["scrape_configs"]
    assert scrape["job_name"] == "milepost"
    assert scrape["dns_sd_configs"][0]["names"] == ["milepost", "simulated"]


@pytest.mark.parametrize("name", ["milepost", "simulated"])
def test_the_configurations_are_valid(name: str, tmp_path: Path) -> None:
    text = (ROOT / f"compose/{name}.yaml").read_text().replace("/run/secrets", str(tmp_path))
    for secret in ("http-token", "database-password"):
        (tmp_path / secret).write_text("a-secret-of-some-length")
    (tmp_path / "config.yaml").write_text(text)
    settings = load(tmp_path / "config.yaml", {"BAKERY_TOKEN": "made-up"})
    assert settings.http.listen == "0.0.0.0:9464"
    assert settings.http.token.get_secret_value()


@needs("promtool", "prometheus")
def test_prometheus_accepts_its_configuration_with_our_rules(tmp_path: Path) -> None:
    text = (ROOT / "compose/prometheus.yml").read_text()
    text = text.replace("/etc/prometheus/rules", str(ROOT / "monitoring/prometheus"))
    (tmp_path / "token").write_text("a-token")
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets/http-token", str(tmp_path / "token")))
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout


@needs("amtool", "prometheus-alertmanager")
def test_alertmanager_accepts_its_configuration() -> None:
    done = subprocess.run(
        ["amtool", "check-config", ROOT / "compose/alertmanager.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
