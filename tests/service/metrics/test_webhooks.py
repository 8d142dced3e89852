"""The counters of webhooks: what expires is counted under the field that it came as, and lost facts are logged."""

from collections import Counter

from structlog.testing import capture_logs

from milepost.core.webhooks import WebhookKind
from milepost.facebook.webhooks import FIELDS
from milepost.service.metrics.collectors import WebhookCounter


def test_events_that_expire_are_counted_by_the_field_that_they_came_as() -> None:
    counter = WebhookCounter(dict)
    counter.expire(Counter({WebhookKind.MESSAGE: 3, WebhookKind.UNSEND: 1, WebhookKind.REACTION: 2}))
    expired = {field: count for (field, result), count in counter.totals.items() if result == "expired"}
    assert expired == {"messages": 4, "message_reactions": 2}


def test_every_kind_has_a_field_of_the_platform() -> None:
    counter = WebhookCounter(dict)
    counter.expire(Counter(WebhookKind))
    assert {field for field, _ in counter.totals} <= {*FIELDS}
    assert sum(counter.totals.values()) == len(WebhookKind)


def test_facts_that_are_lost_are_logged_and_messages_that_were_never_listed_are_not() -> None:
    counter = WebhookCounter(dict)
    with capture_logs() as logged:
        counter.expire(Counter({WebhookKind.MESSAGE: 3}))
        counter.expire(Counter({WebhookKind.MESSAGE: 3, WebhookKind.EDIT: 2}))
    (line,) = logged
    assert (line["event"], line["edit"]) == ("facts expired", 2)
    assert "message" not in line
