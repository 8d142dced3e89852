"""The metrics of deliveries."""

from prometheus_client import CollectorRegistry, generate_latest

from kit.builders import NOON, at
from milepost.core.deliveries import Delivery, DeliveryResult
from milepost.service.metrics.collectors import DeliveryCounter


def exposed(counter: DeliveryCounter) -> list[str]:
    registry = CollectorRegistry()
    registry.register(counter)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_each_result_has_a_series_from_the_start() -> None:
    counter = DeliveryCounter(lambda: {"crm": Delivery("crm", 7)}, lambda: NOON)
    lines = exposed(counter)
    for result in DeliveryResult:
        assert f'milepost_deliveries_total{{destination="crm",result="{result}"}} 0.0' in lines


def test_requests_are_counted_and_the_lag_grows() -> None:
    now = [at(60)]
    counter = DeliveryCounter(lambda: {"crm": Delivery("crm", 7, behind_since=NOON)}, lambda: now[0])
    counter.count("crm", DeliveryResult.REFUSED)
    counter.count("crm", DeliveryResult.REFUSED)
    assert 'milepost_deliveries_total{destination="crm",result="refused"} 2.0' in exposed(counter)
    assert 'milepost_delivery_lag_seconds{destination="crm"} 60.0' in exposed(counter)
    now[0] = at(3600)
    assert 'milepost_delivery_lag_seconds{destination="crm"} 3600.0' in exposed(counter)


def test_without_destinations_there_are_no_series() -> None:
    assert exposed(DeliveryCounter(dict, lambda: NOON)) == []
