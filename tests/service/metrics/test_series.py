"""The series of streams are written as `prometheus_client` writes its own."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from kit.exposition import families
from milepost.service.metrics.instruments import Family

VALUES = (0.0, 1.0, -1.0, 0.1 + 0.2, 1e6 + 0.5, 123456789.0, 1.7e9, 2.0**60, 1e300, 5e-324, math.inf, -math.inf)
TEXTS = ("messenger:1", 'with "quotes"', "back\\slash", "two\nlines", "\\n", "Müller", "", "{a=1,b=2}", "\\")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("text", TEXTS)
def test_a_value_and_its_labels_parse_as_prometheus_clients_do(value: float, text: str) -> None:
    registry = CollectorRegistry()
    Gauge("a_ratio", "Says this.", ("stream", "kind"), registry=registry).labels(text, "of one").set(value)
    family = Family("gauge", "a_ratio", "Says this.", "stream", "kind")
    family.add(text, "of one").set(value)
    assert families(family.write().encode()) == families(generate_latest(registry))


def test_nan_is_written_too() -> None:
    family = Family("gauge", "a_ratio", "Says this.", "stream")
    family.add("messenger:1").set(math.nan)
    [metric] = families(family.write().encode())
    assert math.isnan(metric.samples[0].value)


def test_many_series_are_written_in_the_very_same_text() -> None:
    registry = CollectorRegistry()
    theirs = Counter("batches_total", "Batches.", ("stream", "outcome"), registry=registry)
    ours = Family("counter", "batches_total", "Batches.", "stream", "outcome")
    for number in range(50):
        for outcome in ("stored", "failed"):
            theirs.labels(f"messenger:{number}", outcome).inc(number)
            ours.add(f"messenger:{number}", outcome).inc(number)
    written = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
    assert ours.write().splitlines() == written


def test_a_series_without_a_value_is_hidden_until_it_has_one() -> None:
    family = Family("gauge", "a_ratio", "Says this.", "stream")
    series = family.add("messenger:1", value=None)
    assert "messenger:1" not in family.write()
    series.set(0.5)
    assert 'a_ratio{stream="messenger:1"} 0.5\n' in family.write()
    series.set(None)
    assert "messenger:1" not in family.write()
