"""The metrics of deliveries and webhooks: what there is from the start, and what is counted where."""

from collections import Counter

from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from kit.builders import NOON, STREAM, at
from milepost.core.changes import Delivery, DeliveryResult
from milepost.core.model import Stream
from milepost.core.webhooks import WebhookKind
from milepost.facebook.webhooks import FIELDS
from milepost.service.metrics.traffic import DeliveryCounter, WebhookCounter

# --- deliveries -------------------------------------------------------------------------------------------------------


def exposed(counter: DeliveryCounter | WebhookCounter) -> list[str]:
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


def test_a_destination_that_is_no_longer_configured_has_no_series() -> None:
    states = {"crm": Delivery("crm", 7), "erp": Delivery("erp", 7)}
    counter = DeliveryCounter(lambda: states, lambda: NOON)
    counter.count("erp", DeliveryResult.REFUSED)
    del states["erp"]
    lines = exposed(counter)
    assert {line.partition('destination="')[2][:3] for line in lines} == {"crm"}


def test_without_destinations_there_are_no_series() -> None:
    assert exposed(DeliveryCounter(dict, lambda: NOON)) == []


# --- webhooks ---------------------------------------------------------------------------------------------------------


def test_events_that_expire_are_counted_by_the_field_that_they_came_as() -> None:
    counter = WebhookCounter(dict, tuple)
    counter.expire(Counter({WebhookKind.MESSAGE: 3, WebhookKind.UNSEND: 1, WebhookKind.REACTION: 2}))
    expired = {field: count for (field, result), count in counter.totals.items() if result == "expired"}
    assert expired == {"messages": 4, "message_reactions": 2}


def test_requests_with_an_unknown_signature_are_counted_until_one_has_a_known_one() -> None:
    counter = WebhookCounter(dict, tuple)
    for _ in range(3):
        counter.count_request("wrong_signature")
    counter.count_request("too_large")
    counter.count_request("unsigned")
    counter.expire(Counter({WebhookKind.MESSAGE: 1}))
    assert counter.refused == 3
    counter.count("messages", "stored")
    assert counter.refused == 0


def test_each_stream_that_runs_has_a_series_of_misses_and_no_other_has() -> None:
    streams = [STREAM]
    counter = WebhookCounter(dict, lambda: streams)

    def misses() -> list[str]:
        return [line for line in exposed(counter) if line.startswith("milepost_webhook_misses_total")]

    counter.count_misses(STREAM, 2)
    assert misses() == [f'milepost_webhook_misses_total{{stream="{STREAM.key}"}} 2.0']
    streams[:] = [Stream.parse("messenger:2")]
    assert misses() == ['milepost_webhook_misses_total{stream="messenger:2"} 0.0']
    assert counter.missed == 2


def test_every_kind_has_a_field_of_the_platform() -> None:
    counter = WebhookCounter(dict, tuple)
    counter.expire(Counter(WebhookKind))
    assert {field for field, _ in counter.totals} <= {*FIELDS}
    assert sum(counter.totals.values()) == len(WebhookKind)


def test_facts_that_are_lost_and_messages_that_were_never_listed_are_logged() -> None:
    counter = WebhookCounter(dict, tuple)
    with capture_logs() as logged:
        counter.expire(Counter())
        counter.expire(Counter({WebhookKind.MESSAGE: 3, WebhookKind.EDIT: 2}))
    messages, facts = logged
    assert (messages["event"], messages["count"]) == ("messages expired", 3)
    assert (facts["event"], facts["edit"]) == ("facts expired", 2)
    assert "message" not in facts
