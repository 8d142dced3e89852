"""The alert rules: each has a runbook, is tested to fire and to clear, and uses only exported metrics."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from kit.exposition import everything, families
from kit.prometheus import needs_prometheus, promtool
from kit.promql import DASHBOARD, PANELS, exported_by, unknown
from milepost.service.pages import RUNBOOKS_PATH

ROOT = Path(__file__).parents[2]
RULES = ROOT / "monitoring" / "prometheus"
UNIT_TESTS = sorted(Path(__file__).parent.glob("*.yml"))
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()


def rules_of(name: str) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((RULES / name).read_text())["groups"]:
        yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules_of("alerts.yml")}
RECORDINGS = {rule["record"]: rule for rule in rules_of("recording.yml")}
every_alert = pytest.mark.parametrize("name", ALERTS)


@cache
def all_checks() -> list[dict[str, Any]]:
    """Return the checks of alerts in the unit tests of the rules."""
    tests = [test for path in UNIT_TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    return [check for test in tests for check in test.get("alert_rule_test", [])]


@needs_prometheus
def test_the_rules_and_the_example_configuration_are_valid() -> None:
    promtool("check", "rules", RULES / "recording.yml", RULES / "alerts.yml")
    promtool("check", "config", RULES / "prometheus.yml")


@needs_prometheus
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_the_unit_tests_of_the_rules_pass(path: Path) -> None:
    promtool("test", "rules", path)


@pytest.mark.parametrize("name", [*RECORDINGS, *ALERTS])
def test_a_rule_uses_only_exported_metrics_and_labels(name: str) -> None:
    exported = exported_by(families(everything().expose()))
    recorded = {record: {"stream": set[str]()} if record.startswith("stream:") else {} for record in RECORDINGS}
    rule = ALERTS.get(name) or RECORDINGS[name]
    assert unknown(rule["expr"], {**exported, **recorded}) == []


@pytest.mark.parametrize("record", RECORDINGS)
def test_a_recording_rule_is_used_by_an_alert_or_another(record: str) -> None:
    assert any(record in rule["expr"] for rule in (*ALERTS.values(), *RECORDINGS.values()))


@every_alert
def test_an_alert_is_tested_to_fire_and_to_clear(name: str) -> None:
    firing = [bool(check.get("exp_alerts")) for check in all_checks() if check["alertname"] == name]
    assert True in firing, "no unit test sees it fire"
    assert False in firing[firing.index(True) :], "no unit test sees it clear"


@every_alert
def test_an_alert_has_a_severity_a_short_summary_and_a_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    links = {"runbook_url", "dashboard_url"} | (set() if name == "MilepostDown" else {"status_url"})
    of_stream = {"page"} if "$labels.stream" in rule["annotations"]["summary"] else set()
    assert set(rule["annotations"]) == {"summary", "description"} | links | of_stream
    assert len(rule["annotations"]["summary"]) < 100


@every_alert
def test_the_runbook_of_an_alert_is_complete(name: str) -> None:
    served = "/opt/milepost/current/docs/runbooks.md" if name == "MilepostDown" else RUNBOOKS_PATH
    assert ALERTS[name]["annotations"]["runbook_url"].endswith(f"{served}#{name.lower()}")
    found = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL)
    assert found is not None
    for part in ("Meaning", "Impact", "Diagnosis", "Action", "Clears"):
        assert f"**{part}" in found[1], part


@every_alert
def test_an_alert_leads_to_a_panel_and_the_panel_back_to_the_runbook(name: str) -> None:
    url = urlsplit(ALERTS[name]["annotations"]["dashboard_url"])
    asked = parse_qs(url.query)
    assert url.path == f"/d/{DASHBOARD['uid']}"
    (panel,) = (panel for panel in PANELS.values() if str(panel["id"]) == asked["viewPanel"][0])
    links = {link["url"] for link in panel["links"]}
    assert f"${{status}}{RUNBOOKS_PATH}#{name.lower()}" in links
    assert ("var-stream" in asked) == ("$labels.stream" in ALERTS[name]["annotations"]["summary"])


def test_the_links_are_changed_as_the_readme_says(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "monitoring", tmp_path / "monitoring")
    commands = re.findall(r"^    (sed -i .*)$", (ROOT / "monitoring/README.md").read_text(), re.MULTILINE)
    subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=tmp_path / "monitoring", check=True)
    for path in ("prometheus/alerts.yml", "grafana/milepost.json"):
        text = (tmp_path / "monitoring" / path).read_text()
        assert "https://milepost.example.com/" in text or 'https://milepost.example.com"' in text
        assert "http://" not in text


def test_every_runbook_belongs_to_an_alert() -> None:
    assert set(re.findall(r"^## (Milepost\w+)$", RUNBOOKS, re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("milepost_no_such_total > 0", "milepost_no_such_total is not exported"),
        ("rate(milepost_batches_total{colour='red'}[5m])", "milepost_batches_total has no label colour"),
        ("milepost_stream_state{state=~'stopped|gone'}", "milepost_stream_state has no state of ['gone']"),
        ("sum by (colour) (milepost_dead_letters)", "no series of it has the label colour"),
        ("up * on (colour) milepost_dead_letters", "no series of it has the label colour"),
    ],
)
def test_a_metric_or_label_that_is_not_exported_is_reported(expression: str, complaint: str) -> None:
    assert unknown(expression, exported_by(families(everything().expose()))) == [complaint]
