"""docs/events.md has the statuses, the fields and the limits of the code."""

import re
from pathlib import Path

from milepost.core.events import TAGS
from milepost.service.events import broadcast, route
from milepost.service.events.messages import Message, Status
from milepost.service.events.route import EventsAsked
from service.events.test_messages import CASES

PAGE = (Path(__file__).parents[3] / "docs/events.md").read_text()


def rows(heading: str) -> dict[str, str]:
    """Return the rows of the first table after a heading, by their first cell."""
    _, _, rest = PAGE.partition(f"\n{heading}")
    table = re.search(r"^\|[^\n]*\n\|---\|---\|\n((?:\|[^\n]*\n)+)", rest, re.MULTILINE)
    assert table is not None
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table[1], re.MULTILINE))


def test_the_page_lists_every_status_and_field_in_order() -> None:
    assert list(rows("## Statuses")) == [status.value for status in Status]
    assert set(rows("## Fields")) == set(Message.__struct_encode_fields__)


def test_the_page_lists_every_parameter() -> None:
    assert set(rows("A browser that was cut off")) == set(EventsAsked.__struct_fields__)


def test_the_page_lists_the_statuses_of_each_type_of_entry() -> None:
    documented = {tag: set(re.findall(r"`(\w+)`", statuses)) for tag, statuses in rows("## From the journal").items()}
    found: dict[str, set[str]] = {}
    for event, status, *_ in CASES:
        found.setdefault(TAGS[type(event)], set()).add(status)
    assert documented == found


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    assert f"{broadcast.MAX_READERS} readers can listen" in PAGE
    assert f"every {broadcast.HEARTBEAT_SECONDS:.0f} seconds" in PAGE
    assert f"takes nothing for {route.MAX_WRITE_SECONDS:.0f} seconds" in PAGE
    assert f"(0 to {route.MAX_LAST})" in PAGE
    assert f"may be given {route.MAX_STREAMS} times" in PAGE
    assert 1 / broadcast.BEAT_SECONDS == 5, "five times a second at the most"
    assert broadcast.RETRY_MILLISECONDS == 3000, "after three seconds"
