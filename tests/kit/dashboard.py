"""The shipped Grafana dashboard, its panels and their queries."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
