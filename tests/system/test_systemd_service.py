"""milepost.service under a real systemd: start, watchdog, crash and stop as docs/operations.md says."""

import re
import time

import pytest

from kit.systemd_service import CONFIG, DATABASE, OTHER_PAGE, PAGE, PYTHON, STREAM, TOKEN, Service

BATCH_SIZE = 20
# The first one installs Milepost for all, and the others wait for that.
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
# Locks the database so that the next start has to wait, as for a long migration: for less time than SQLite waits, and
# more than TimeoutStartSec, which has to be long enough for a busy machine to load the program.
HOLD_LOCKED = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode = EXCLUSIVE")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE checkpoints SET version = version WHERE false")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


def working(service: Service) -> None:
    """Start the service, and wait until it is in mid-sweep, where the world stands still until it is released."""
    service.simulate(300)
    service.act("hold", after=3)
    service.configure(sync={"batch_size": BATCH_SIZE})
    service.hand_over_token()
    service.start()
    service.until_stored(3)


def test_the_service_reads_its_credential_and_syncs_with_full_hardening(service: Service) -> None:
    service.simulate(200)
    service.configure()
    service.hand_over_token()
    service.start()
    assert service.fetched("http://127.0.0.1:9464/readyz") == "ready\n", "it said too early that it is ready"
    service.until_complete()
    service.lab.until(lambda: service.shown("StatusText") == "1 stream: 1 up to date", "the status in words")
    assert service.copied() == service.undisturbed()
    process = f"/proc/{service.shown('MainPID')}"
    kept_from = dict(line.split(":\t", 1) for line in service.lab.run("cat", f"{process}/status").splitlines())
    assert kept_from["NoNewPrivs"] == "1"
    assert kept_from["Seccomp"] == "2"
    assert int(kept_from["CapBnd"], 16) == 0
    assert 61184 <= int(kept_from["Uid"].split()[0]) <= 65519, "it runs as a user that somebody else is, too"
    assert service.lab.run("stat", "-c", "%a %U", TOKEN) == "600 root\n"
    assert PAGE.token not in service.lab.run("cat", f"{process}/environ", f"{process}/cmdline")
    assert service.lab.run("stat", "-c", "%a", "/var/lib/private/milepost/milepost.db") == "600\n"
    assert "process_start_time_seconds" in service.fetched("http://127.0.0.1:9464/metrics")


def test_another_page_needs_a_line_in_a_drop_in_and_a_new_token_a_restart(service: Service) -> None:
    service.change_unit("LoadCredential=milepost.bicycles-token\n")
    service.simulate(40, pages=2)
    tokens = {PAGE: "access-token", OTHER_PAGE: "bicycles-token"}
    page_sections = [
        {"id": page.id, "platforms": ["messenger"], "access_token_file": f"${{CREDENTIALS_DIRECTORY}}/milepost.{token}"}
        for page, token in tokens.items()
    ]
    service.configure(pages=page_sections)
    for page, token in tokens.items():
        service.lab.write(f"/etc/credstore/milepost.{token}", f"{page.token}\n", mode="600")
    checked = service.lab.run("milepost", "config", "check", "--online")
    assert "file /etc/credstore/milepost.bicycles-token" in checked
    service.start()
    for page in tokens:
        service.until_complete(f"messenger:{page.id}")
    handed_over = "/run/credentials/milepost.service/milepost.access-token"
    service.lab.write(TOKEN, "EAANewOne", mode="600")
    service.lab.run("systemctl", "restart", "milepost")
    assert service.lab.run("cat", handed_over) == "EAANewOne"
    service.lab.until(lambda: "1 stopped until the token" in service.shown("StatusText"), "a status")


def test_a_service_killed_in_mid_sweep_is_restarted_and_resumes_at_the_cursor(service: Service) -> None:
    service.change_unit("")
    working(service)
    left_behind, asked = service.positions()[:-1], len(service.asked_cursors())
    service.lab.run("systemctl", "kill", "--signal=KILL", "milepost")
    service.act("release")
    service.until_restarted()
    service.until_complete()
    assert not set(left_behind).intersection(service.asked_cursors()[asked:]), "what was committed was asked for again"
    assert service.rows("SELECT count(*) FROM journal WHERE type = 'sweep_started'") == [(1,)]
    assert service.rows("SELECT status, reason FROM runs ORDER BY started_at") == [
        ("interrupted", "process_died"),
        ("complete", None),
    ]
    assert service.copied() == service.undisturbed()
    service.lab.run("milepost", "journal", "verify")


def test_a_service_whose_disk_has_no_inode_is_started_again_until_there_is_one(service: Service) -> None:
    state = "/var/lib/private/milepost"
    service.change_unit("")
    service.simulate(40)
    service.configure()
    service.hand_over_token()
    service.lab.run("mkdir", "-p", "-m", "700", state)
    service.lab.run("mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=1", "tmpfs", state)
    service.lab.run("systemctl", "start", "--no-block", "milepost")
    service.until_logged("cannot be locked: No space left on device")
    service.lab.until(lambda: int(service.shown("NRestarts")) >= 2, "two restarts")
    service.lab.run("mount", "-o", "remount,nr_inodes=100", state)
    service.lab.until(lambda: service.shown("ActiveState") == "active", "a start")
    service.until_complete()
    assert service.copied() == service.undisturbed()


def test_a_hanging_service_is_killed_by_the_watchdog_and_resumes(service: Service) -> None:
    service.change_unit("WatchdogSec=3s\n")
    working(service)
    service.lab.run("systemctl", "kill", "--signal=STOP", "milepost")
    service.act("release")
    service.until_restarted()
    service.until_logged("Watchdog timeout (limit 3s)!")
    assert service.until_logged("Fatal Python error: Aborted"), "nobody can tell where it hung"
    service.until_complete()
    assert service.copied() == service.undisturbed()


def test_a_service_that_works_for_longer_than_the_watchdogs_timeout_is_left_alone(service: Service) -> None:
    service.change_unit("WatchdogSec=3s\n")
    working(service)
    time.sleep(5)  # nothing to wait for: the point is that nothing happens
    service.act("release")
    service.until_complete()
    assert service.shown("NRestarts") == "0"


def test_a_stop_in_mid_batch_pauses_the_run_and_the_next_start_continues_there(service: Service) -> None:
    working(service)
    service.stop()  # it does not wait for the response, which never comes: otherwise it would be killed, and fail
    assert (service.shown("Result"), service.shown("ExecMainStatus")) == ("success", "0")
    assert service.rows("SELECT status, reason FROM runs") == [("paused", "shutdown")]
    conversations = service.rows("SELECT count(*) FROM conversations")
    assert conversations == [(service.batches() * BATCH_SIZE,)], "a part of a batch is stored"
    place, asked = service.positions()[-1], len(service.asked_cursors())
    service.act("release")
    service.start()
    service.until_complete()
    assert service.asked_cursors()[asked] == place
    assert service.copied() == service.undisturbed()


def test_systemd_waits_for_a_start_that_takes_longer_than_its_timeout(service: Service) -> None:
    service.change_unit("TimeoutStartSec=4s\n")
    service.simulate(10)
    service.configure()
    service.hand_over_token()
    service.start()
    service.stop()
    hold = ["systemd-run", "--quiet", "--unit=holder", PYTHON, "-c", HOLD_LOCKED, DATABASE, "5.2"]
    service.lab.run(*hold)
    service.lab.until(lambda: "locked" in service.lab.run("journalctl", "-u", "holder", "-o", "cat"), "a lock")
    service.start()
    assert service.shown("ActiveState") == "active"
    assert service.shown("NRestarts") == "0"


def test_a_service_with_a_bad_configuration_fails_once(service: Service) -> None:
    service.change_unit("")
    service.lab.write(CONFIG, "sync: {batch_size: 5000}\n")
    started = service.lab.tried("systemctl", "start", "milepost")
    assert started.returncode != 0
    assert [service.shown(key) for key in ("ActiveState", "Result", "ExecMainStatus", "NRestarts")] == [
        "failed",
        "exit-code",
        "78",
        "0",
    ]
    assert service.until_logged("sync.batch_size: found 5000; allowed: a whole number from 1 to 200")


def test_a_reload_applies_a_valid_configuration_and_rejects_an_invalid_one(service: Service) -> None:
    service.simulate(40, pages=2)
    service.configure()
    service.hand_over_token()
    service.start()
    service.until_complete()
    process = service.shown("MainPID")
    service.configure(PAGE, OTHER_PAGE)
    service.lab.run("systemctl", "reload", "milepost")
    service.until_complete(f"messenger:{OTHER_PAGE.id}")
    service.lab.write(CONFIG, "pages: nonsense\n")
    tried = service.lab.tried("systemctl", "reload", "milepost")
    assert tried.returncode != 0, "it said that it had reloaded"
    assert service.until_logged('pages: found "nonsense"')
    refused = service.until_logged("configuration not reloaded")
    assert "pages: found" in refused["MESSAGE"]
    assert refused["PRIORITY"] == "3"
    assert service.shown("MainPID") == process
    assert service.shown("ActiveState") == "active"
    said = "the configuration could not be reloaded since"
    service.lab.until(lambda: service.shown("StatusText").startswith(said), "a status that says so")
    service.configure(PAGE, OTHER_PAGE)
    service.lab.run("systemctl", "reload", "milepost")
    service.lab.until(lambda: service.shown("StatusText") == "2 streams: 2 up to date", "an end of that")


def test_journald_can_be_searched_by_stream_run_event_and_priority(service: Service) -> None:
    service.simulate(60, "http_500=first:2")
    service.configure(retry={"base_delay": "10ms"}, log={"level": "debug"})
    service.hand_over_token()
    service.start()
    service.until_complete()
    service.until_logged("sweep completed")
    warnings = service.log(f"MILEPOST_STREAM={STREAM}", "--priority=warning")
    assert [entry["MILEPOST_EVENT"] for entry in warnings] == ["fetch failed, retrying"] * 2
    for entry in warnings:
        assert entry["PRIORITY"] == "4"
        assert entry["SYSLOG_IDENTIFIER"] == "milepost"
        assert entry["CODE_FILE"].endswith("/logs/lines.py")
        assert entry["CODE_LINE"].isdecimal()
        assert entry["CODE_FUNC"]
        assert STREAM in entry["MESSAGE"], "it cannot be read in plain journalctl -f"
    of_run = service.log(f"MILEPOST_RUN={warnings[0]['MILEPOST_RUN']}", "MILEPOST_EVENT=sweep completed")
    assert len(of_run) == 1
    assert service.log(f"MILEPOST_STREAM=messenger:{OTHER_PAGE.id}") == []
    assert PAGE.token not in service.lab.run("journalctl", "-u", "milepost", "-o", "export")


def test_the_limits_on_memory_and_tasks_are_in_effect(service: Service) -> None:
    service.simulate(10)
    service.configure()
    service.hand_over_token()
    service.start()
    service.until_complete()
    assert 0 < int(service.shown("MemoryCurrent")) < int(service.shown("MemoryHigh")) < int(service.shown("MemoryMax"))
    assert 0 < int(service.shown("TasksCurrent")) < int(service.shown("TasksMax")) == 64
    limits = service.lab.run("cat", f"/proc/{service.shown('MainPID')}/limits")
    assert re.search(r"Max core file size +0 +0 ", limits), "a core would hold the tokens"


def test_instances_run_side_by_side_each_with_its_own_database(service: Service) -> None:
    service.simulate(40, pages=2)
    for name, page, port in (("shop", PAGE, 9464), ("club", OTHER_PAGE, 9465)):
        service.configure(page, unit=f"milepost-{name}", http={"listen": f"127.0.0.1:{port}"})
        service.hand_over_token(page, unit=f"milepost-{name}")
        service.lab.run("systemctl", "start", f"milepost@{name}")
    for name, page in (("shop", PAGE), ("club", OTHER_PAGE)):
        database = f"/var/lib/milepost-{name}/milepost.db"
        service.until_complete(f"messenger:{page.id}", database)
        assert service.rows("SELECT DISTINCT page_id FROM conversations", database) == [(page.id,)]
        owner = service.lab.run("stat", "-L", "-c", "%u", f"/var/lib/milepost-{name}").strip()
        assert owner in service.lab.run("cat", f"/proc/{service.lab.shown(f'milepost@{name}', 'MainPID')}/status")
        service.lab.run("systemctl", "reload", f"milepost@{name}")


def test_the_timer_syncs_on_a_schedule_instead_of_a_daemon(service: Service) -> None:
    service.simulate(60)
    service.configure()
    service.hand_over_token()
    drop_in = "[Timer]\nOnCalendar=\nOnActiveSec=100ms\nAccuracySec=10ms\nRandomizedDelaySec=0\n"
    service.lab.write("/etc/systemd/system/milepost-sync.timer.d/test.conf", drop_in)
    service.lab.run("systemctl", "daemon-reload")
    service.lab.run("systemctl", "start", "milepost-sync.timer")
    service.until_complete()
    service.lab.until(lambda: service.lab.shown("milepost-sync", "ActiveState") == "inactive", "the end of the sync")
    assert service.lab.shown("milepost-sync", "Result") == "success"
    assert service.copied() == service.undisturbed()
    service.start()  # the daemon finds all its files accessible
    service.lab.until(lambda: service.shown("StatusText") == "1 stream: 1 up to date", "the status in words")
