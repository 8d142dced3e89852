"""The dashboard: it queries only exported metrics, and its layout is valid."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from kit.exposition import everything, families
from kit.promql import DASHBOARD, GRAFANA, PANELS, exported_by, expressions, unknown

ANYTHING = {"__rate_interval": "1m", "instance": ".*", "stream": ".*"}
# The series that Prometheus makes of firing alerts.
ALERTS = {label: set[str]() for label in ("alertname", "alertstate", "severity", "stream")}
COLUMNS = 24
every_panel = pytest.mark.parametrize("title", PANELS)


def test_the_dashboard_queries_only_exported_metrics_and_labels() -> None:
    exported = {**exported_by(families(everything().expose())), "ALERTS": ALERTS}
    for title, expression in expressions(ANYTHING):
        assert unknown(expression, exported) == [], title


def test_the_dashboard_leads_from_the_overview_to_streams_and_errors() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Streams", "Errors", "The machine"]


def test_every_metric_of_streams_is_on_a_panel() -> None:
    asked = " ".join(expression for _, expression in expressions(ANYTHING))
    for family in everything().metrics._instruments.of_streams.all:
        assert family.name in asked, family.name


def test_panels_do_not_overlap_and_have_unique_titles() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), f"{one['title']} and {other['title']}"
    assert all(place["x"] + place["w"] <= COLUMNS for place in (panel["gridPos"] for panel in panels))


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size] for at, size in (("x", "w"), ("y", "h"))
    )


@every_panel
def test_a_panel_has_a_description_a_unit_and_ascending_thresholds(title: str) -> None:
    panel = PANELS[title]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in {"none", "s", "cps", "percentunit", "bytes"}
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[0]["value"] is None
    assert [step["value"] for step in steps[1:]] == sorted(step["value"] for step in steps[1:])


@every_panel
def test_a_panel_queries_the_selected_data_source(title: str) -> None:
    panel = PANELS[title]
    for source in (panel, *panel["targets"]):
        assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@every_panel
def test_a_panel_renames_orders_and_overrides_only_fields_that_it_has(title: str) -> None:
    panel = PANELS[title]
    targets = {target["refId"] for target in panel["targets"]}
    text = json.dumps(panel.get("transformations", []))
    assert set(re.findall(r"Value #(\w)", text)) <= targets
    renamed: dict[str, Any] = {}
    for transformation in panel.get("transformations", []):
        renamed |= transformation["options"].get("renameByName", {})
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["options"] in {*renamed.values(), *targets, "stream", "alertname"}


def test_the_dashboard_defines_exactly_the_variables_that_it_uses() -> None:
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert {name for name in used if not name.startswith("__")} == defined
    for variable in DASHBOARD["templating"]["list"]:
        metric = re.match(r"label_values\((\w+)", variable["query"]["query"] if variable["type"] == "query" else "")
        assert metric is None or metric[1] in exported_by(families(everything().expose()))


def test_the_provisioning_names_the_dashboard_folder_and_the_data_source() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/milepost.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/milepost.yml").read_text())["providers"]
    assert source["type"] == "prometheus"
    assert provider["options"]["path"] in (GRAFANA.parent / "README.md").read_text()
