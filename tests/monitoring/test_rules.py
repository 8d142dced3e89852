"""The alert rules: that each says what to do, is tested to fire and to clear, and asks for what is exported."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.exposition import everything, families
from kit.prometheus import needs_prometheus, promtool
from kit.promql import exported_by, unknown

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


def looked_at(name: str) -> Iterator[dict[str, Any]]:
    """Give the looks that unit tests take at an alert."""
    for path in UNIT_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            yield from (look for look in test.get("alert_rule_test", []) if look["alertname"] == name)


@needs_prometheus
def test_the_rules_and_the_example_of_a_scrape_are_valid() -> None:
    promtool("check", "rules", RULES / "recording.yml", RULES / "alerts.yml")
    promtool("check", "config", RULES / "prometheus.yml")


@needs_prometheus
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_clear_as_they_should(path: Path) -> None:
    promtool("test", "rules", path)


@pytest.mark.parametrize("name", [*RECORDINGS, *ALERTS])
def test_a_rule_asks_for_nothing_that_nobody_exports(name: str) -> None:
    exported = exported_by(families(everything().expose()))
    recorded = {record: {"stream": set[str]()} if record.startswith("stream:") else {} for record in RECORDINGS}
    rule = ALERTS.get(name) or RECORDINGS[name]
    assert unknown(rule["expr"], {**exported, **recorded}) == []


@pytest.mark.parametrize("record", RECORDINGS)
def test_a_recording_rule_is_used_by_an_alert_or_another(record: str) -> None:
    assert any(record in rule["expr"] for rule in (*ALERTS.values(), *RECORDINGS.values()))


@every_alert
def test_an_alert_is_seen_to_fire_and_to_clear(name: str) -> None:
    looks = [bool(look.get("exp_alerts")) for look in looked_at(name)]
    assert True in looks, "no unit test sees it fire"
    assert False in looks[looks.index(True) :], "no unit test sees it clear"


@every_alert
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert len(rule["annotations"]["summary"]) < 100


@every_alert
def test_the_runbook_of_an_alert_tells_all_that_one_has_to_know(name: str) -> None:
    assert ALERTS[name]["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
    found = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL)
    assert found is not None
    for part in ("It means", "How bad", "Look at", "Do", "It clears"):
        assert f"**{part}" in found[1], part


def test_no_runbook_is_about_an_alert_that_there_is_not() -> None:
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
def test_what_nobody_exports_is_found_out(expression: str, complaint: str) -> None:
    assert unknown(expression, exported_by(families(everything().expose()))) == [complaint]
