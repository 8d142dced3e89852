"""PromQL: the queries of the shipped Grafana dashboard, and a check of any against what the daemon exports."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser as promql
from prometheus_client import Metric

# All values of these labels are known in advance; others name streams, codes, versions or buckets.
CLOSED = {"kind", "outcome", "reason", "result", "scope", "stage", "state", "status"}
OF_THE_SCRAPE = {"job", "instance"}

Exported = Mapping[str, Mapping[str, set[str]]]
"""The labels of each series' name, with the values that they have."""


def exported_by(families: Iterable[Metric]) -> dict[str, dict[str, set[str]]]:
    """Return the metrics of an exposition with their labels and values, and what Prometheus adds."""
    exported: dict[str, dict[str, set[str]]] = {"up": {}}
    for sample in (sample for family in families for sample in family.samples):
        labels = exported.setdefault(sample.name, {})
        for label, value in sample.labels.items():
            labels.setdefault(label, set()).add(value)
    return exported


def unknown(expression: str, exported: Exported) -> list[str]:
    """Return a complaint for each metric or label in an expression that is not exported.

    Raises ValueError if the expression is not PromQL.
    """
    found: list[str] = []
    known: set[str] = set(OF_THE_SCRAPE)
    joined: set[str] = set()

    def visit(node: promql.Expr) -> bool:
        if isinstance(node, promql.VectorSelector):
            known.update(exported.get(node.name or "", {}))
            found.extend(_unknown_to(node, exported))
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            joined.update(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier is not None:
            joined.update(node.modifier.matching.labels if node.modifier.matching is not None else [])
            joined.update(node.modifier.group_labels or [])
        return True

    promql.walk(promql.parse(expression), visit)
    return found + [f"no series of it has the label {label}" for label in sorted(joined - known)]


def _unknown_to(selector: promql.VectorSelector, exported: Exported) -> list[str]:
    labels = exported.get(selector.name or "")
    if labels is None:
        return [f"{selector.name} is not exported"]
    found = []
    for matcher in selector.matchers.matchers:
        if matcher.name not in labels.keys() | OF_THE_SCRAPE:
            found.append(f"{selector.name} has no label {matcher.name}")
        elif matcher.name in CLOSED and (strangers := set(matcher.value.split("|")) - labels[matcher.name]):
            found.append(f"{selector.name} has no {matcher.name} of {sorted(strangers)}")
    return found


GRAFANA = Path(__file__).parents[2] / "monitoring" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "milepost.json").read_text())
PANELS: dict[str, dict[str, Any]] = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}


def expressions(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each query with its panel's or annotation's title, the variables replaced by values."""
    for title, panel in PANELS.items():
        yield from ((title, _filled(target["expr"], values)) for target in panel["targets"])
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], _filled(annotation["expr"], values)


def _filled(expression: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        expression = expression.replace(f"${name}", value)
    return expression
