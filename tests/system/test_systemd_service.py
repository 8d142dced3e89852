"""milepost.service under a real systemd: it starts, is watched, dies and stops as docs/operations.md says."""

from kit.service import PAGE, STREAM, TOKEN, Service


def test_it_starts_reads_its_credential_and_syncs_with_all_its_hardening_on(service: Service) -> None:
    service.simulate(200)
    service.configure()
    service.hand_over_token()
    service.start()
    assert service.fetched("http://127.0.0.1:9464/readyz") == "ready\n\n", "it said that it is ready too early"
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
    assert "process_resident_memory_bytes" in service.fetched("http://127.0.0.1:9464/metrics")
