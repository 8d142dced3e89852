"""systemd/install.sh, and upgrading, rolling back, backing up and restoring as docs/operations.md says."""

from pathlib import Path

import pytest
import yaml

from kit.systemd_service import BASE_URL, CONFIG, DATABASE, NOT_INSTALLED, PAGE, ROOT, SOURCE, Service, install

# The first one installs Milepost for all, and the others wait for that.
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

RELEASES = "/opt/milepost/releases"
NEWER = ("sed", "-i", 's/^__version__ = .*/__version__ = "9.9.9"/')


def release(service: Service, link: str) -> str:
    return Path(service.lab.run("readlink", f"/opt/milepost/{link}").strip()).name


def releases(service: Service) -> set[str]:
    return set(service.lab.run("ls", RELEASES).split())


def mode_of(service: Service, path: str) -> str:
    return service.lab.run("stat", "-c", "%a %U", path).strip()


def test_the_service_as_installed_needs_pages_and_starts_nothing_simulated(service: Service) -> None:
    assert mode_of(service, "/etc/credstore") == "700 root"
    assert mode_of(service, CONFIG) == "644 root"
    assert service.lab.run("milepost", "--version").startswith("milepost, version ")
    assert service.lab.tried("systemctl", "is-enabled", "milepost").stdout.strip() == "disabled"
    assert service.lab.tried("systemctl", "start", "milepost").returncode != 0
    assert service.shown("ExecMainStatus") == "78"
    service.until_logged("pages: missing; allowed: one page or more, which source.kind: facebook needs")
    assert service.lab.tried("ls", DATABASE).returncode != 0, "nothing was copied"
    for unit in ("milepost.service", "milepost@shop.service", "milepost-sync.service", "milepost-sync.timer"):
        said = service.lab.tried("systemd-analyze", "verify", unit)
        assert said.stderr + said.stdout == "", unit


def test_the_installed_service_works_once_pages_are_filled_in(service: Service) -> None:
    service.simulate(60)
    laid = yaml.safe_load(service.lab.run("cat", CONFIG))
    del laid["notify"]  # PyYAML takes its key `on` for true
    laid["source"] |= {"base_url": BASE_URL, "calls_per_second": 0}
    token = {"access_token_file": "${CREDENTIALS_DIRECTORY}/milepost.access-token"}
    service.lab.write(CONFIG, yaml.safe_dump({**laid, "pages": [{"id": PAGE.id, "platforms": ["messenger"]} | token]}))
    service.hand_over_token()
    service.start()
    service.until_complete()
    assert service.lab.run("stat", "-L", "-c", "%a", "/var/lib/milepost").strip() == "700"
    assert "messenger:" in service.lab.run("milepost", "status")


def test_the_script_says_what_to_fill_in_and_warns_of_a_simulated_source(service: Service) -> None:
    service.lab.put(ROOT, SOURCE, NOT_INSTALLED)
    service.lab.run("rm", "/opt/milepost/current")
    said = install(service.lab)
    assert "next: 1. fill in pages in /etc/milepost/config.yaml" in said
    assert "simulated" not in said
    service.lab.run("sed", "-i", "s/^  kind: facebook$/  kind: simulator/", CONFIG)
    assert "config.yaml uses the simulator, whose people are invented: set source.kind" in install(service.lab)
    assert service.shown("ActiveState") == "inactive"


def test_an_upgrade_resumes_where_the_old_version_was_and_can_be_rolled_back(service: Service) -> None:
    service.simulate(300)
    service.act("hold", after=2)
    service.configure(sync={"batch_size": 20})
    service.hand_over_token()
    service.start()
    service.until_stored(2)
    old, configuration = release(service, "current"), service.lab.run("cat", CONFIG)
    service.lab.put(ROOT, SOURCE, NOT_INSTALLED)

    assert f"{old} is installed" in install(service.lab)
    assert releases(service) == {old}, "the same was installed twice"
    assert service.lab.tried("readlink", "/opt/milepost/previous").returncode != 0

    service.lab.run(*NEWER, f"{SOURCE}/daemon/milepost/__init__.py")
    install(service.lab)
    new = release(service, "current")
    assert new.startswith("9.9.9-")
    assert releases(service) == {old, new}
    assert service.lab.run("cat", CONFIG) == configuration
    assert f"{RELEASES}/{new}/" in service.lab.run("cat", f"/proc/{service.shown('MainPID')}/cmdline")

    service.lab.run("/opt/milepost/current/systemd/install.sh", "--rollback")
    assert (release(service, "current"), release(service, "previous")) == (old, new)
    assert f"{RELEASES}/{old}/" in service.lab.run("cat", f"/proc/{service.shown('MainPID')}/cmdline")
    service.act("release")
    service.until_complete()
    assert service.rows("SELECT count(*) FROM journal WHERE type = 'sweep_started'") == [(1,)]
    assert service.copied() == service.undisturbed()


def test_a_backup_can_be_restored_as_the_documentation_says(service: Service) -> None:
    service.simulate(300)
    service.act("hold", after=3)
    service.configure(sync={"batch_size": 20})
    service.hand_over_token()
    service.start()
    service.until_stored(3)
    made = service.lab.run("milepost", "backup", "/var/backups/milepost.db")
    assert made.startswith("/var/backups/milepost.db is a sound copy of /var/lib/milepost/milepost.db: ")
    assert mode_of(service, "/var/backups/milepost.db") == "600 root"
    service.act("release")
    service.until_complete()
    assert service.batches() == 15
    for command in documented("restore"):
        if not command.startswith("systemctl start"):
            service.lab.run("sh", "-euc", command)
    assert service.batches() == 3
    place, asked = service.positions()[-1], len(service.asked_cursors())
    service.start()
    service.until_complete()
    assert service.asked_cursors()[asked] == place
    assert service.copied() == service.undisturbed()
    assert service.rows("SELECT status FROM runs ORDER BY started_at", DATABASE)[0] == ("interrupted",)
    service.lab.run("milepost", "journal", "verify")


def test_an_uninstalled_service_leaves_its_data_to_another_installation(service: Service) -> None:
    service.simulate(60)
    service.configure()
    service.hand_over_token()
    service.start()
    service.until_complete()
    copied = service.copied()
    for command in documented("uninstall"):
        service.lab.run("sh", "-euc", command)
    assert service.lab.tried("systemctl", "cat", "milepost").returncode != 0
    assert service.lab.tried("sh", "-c", "ls /opt/milepost || which milepost").returncode != 0
    assert service.copied() == copied

    service.lab.put(ROOT, SOURCE, NOT_INSTALLED)
    install(service.lab)
    service.start()
    assert service.lab.run("milepost", "journal", "verify").startswith("The journal is sound")
    service.lab.run("systemctl", "stop", "milepost")
    for command in documented("purge"):
        service.lab.run("sh", "-euc", command)
    left = "ls -d /var/lib/milepost* /var/lib/private/milepost* /etc/milepost /etc/credstore/milepost*"
    assert service.lab.tried("sh", "-c", left).stdout == ""


def documented(block: str) -> list[str]:
    """Return the commands of the marked block of docs/operations.md, without sudo."""
    page = (ROOT / "docs" / "operations.md").read_text()
    commands = page.split(f"<!-- {block} -->\n```sh\n")[1].split("```")[0].splitlines()
    return [command.removeprefix("sudo ") for command in commands]
