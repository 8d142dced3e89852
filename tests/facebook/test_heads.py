"""The head of an inbox that comes as it came before is not decoded again."""

import gc
from itertools import product

import pytest

from kit.graph_answers import PAGE, PAGE_ID, Json, encoded, listed, message, person, thread
from milepost.core.model import Batch
from milepost.core.problems import Problem
from milepost.facebook.decoding import Asked, Edge, Head, HeadRoom, decode
from milepost.facebook.threads import OwnIds

EDGE_URL = f"https://graph.facebook.com/v26.0/{PAGE_ID}/conversations"
ASKED = Asked(50, 20)

Answer = Batch | Problem


def among(number: int, *people: Json, **fields: object) -> Json:
    """Return a thread of these people."""
    messages = message(f"m_{number}", people[0] if people else None)
    return thread(f"t_{number}", messages, participants={"data": list(people)}, **fields)


def somebody(number: int) -> Json:
    return person(str(10_000 + number), f"Person {number}")


OURS = encoded(listed(among(1, somebody(1), PAGE), among(2, somebody(2), PAGE)))
RENAMED = encoded(listed(among(1, somebody(1), {**PAGE, "name": "New Bakery"})))
STRANGERS = encoded(listed(*(among(n, somebody(n), person("77777")) for n in range(3, 5))))
MORE_STRANGERS = encoded(listed(*(among(n, somebody(n), person("77777")) for n in range(5, 7))))
ODD = encoded(listed(among(8, somebody(8), PAGE), "odd"))
REFUSED = b'{"data":['


class Read:
    """An inbox whose heads are read, and how often one was decoded."""

    def __init__(self, room: HeadRoom | None = None) -> None:
        self.own_ids = OwnIds([PAGE_ID])
        self.head = Head(room or HeadRoom(), self.own_ids)
        self.decoded = 0

    def decode(self, body: bytes) -> Answer:
        self.decoded += 1
        return decode(body, 200, Edge(self.own_ids, EDGE_URL), ASKED)

    def read(self, body: bytes, asked: Asked = ASKED) -> Answer:
        return self.head.decode(body, asked, lambda: self.decode(body))

    def reads(self, *bodies: bytes) -> int:
        """Read these heads, and return how many were decoded."""
        before = self.decoded
        for body in bodies:
            self.read(body)
        return self.decoded - before


def test_a_head_that_comes_again_is_not_decoded_again() -> None:
    inbox = Read()
    first = inbox.read(OURS)
    assert isinstance(first, Batch)
    assert [inbox.read(OURS) for _ in range(4)] == [first] * 4
    assert inbox.decoded == 1


def test_another_head_is_decoded_and_so_is_the_one_before_when_it_comes_back() -> None:
    inbox = Read()
    assert inbox.reads(OURS, OURS, OURS) == 1
    assert inbox.reads(RENAMED, OURS, OURS, OURS) == 3


def test_a_busy_inbox_takes_no_room_from_a_quiet_one() -> None:
    room = HeadRoom(max_bytes=len(OURS))
    busy, quiet = Read(room), Read(room)
    busy.reads(OURS, RENAMED)
    assert quiet.reads(OURS, OURS) == 1


def test_one_that_was_asked_for_in_another_way_is_decoded() -> None:
    inbox = Read()
    inbox.reads(OURS, OURS)
    before = inbox.decoded
    inbox.read(OURS, Asked(1, 20))
    assert inbox.decoded == before + 1


def test_one_is_decoded_where_another_id_is_ours_by_now() -> None:
    inbox = Read()
    inbox.reads(OURS, OURS)
    inbox.own_ids.expect("10001")
    assert inbox.reads(OURS) == 1


@pytest.mark.parametrize("body", [STRANGERS, ODD, REFUSED], ids=["without us", "with an odd item", "not JSON"])
def test_what_is_not_plain_is_decoded_each_time(body: bytes) -> None:
    assert Read().reads(*[body] * 5) == 5


def test_whatever_comes_in_whichever_order_means_what_it_means_decoded() -> None:
    bodies = (OURS, RENAMED, STRANGERS, MORE_STRANGERS)
    for order in product(bodies, repeat=5):
        kept, plain = Read(), Read()
        for body in order:
            for _ in range(3):
                assert kept.read(body) == plain.decode(body)
                assert (kept.own_ids.all, kept.own_ids.profile) == (plain.own_ids.all, plain.own_ids.profile)


def test_what_other_requests_learn_in_between_counts_as_if_the_head_was_decoded() -> None:
    for between in product((RENAMED, STRANGERS, MORE_STRANGERS), repeat=4):
        kept, plain = Read(), Read()
        for body in between:
            for _ in range(3):
                assert kept.read(OURS) == plain.decode(OURS)
            assert kept.decode(body) == plain.decode(body)  # of a later batch, or of one thread
            assert (kept.own_ids.all, kept.own_ids.profile) == (plain.own_ids.all, plain.own_ids.profile)


def test_all_heads_together_have_so_much_room() -> None:
    room = HeadRoom(max_bytes=len(OURS))
    first, second = Read(room), Read(room)
    assert first.reads(OURS, OURS, OURS) == 1
    assert second.reads(OURS, OURS, OURS) == 3

    first.read(STRANGERS)
    assert second.reads(OURS, OURS) == 1


def test_an_inbox_that_is_gone_leaves_its_room() -> None:
    room = HeadRoom(max_bytes=len(OURS))
    gone: Read | None = Read(room)
    assert gone is not None
    assert gone.reads(OURS, OURS, OURS) == 1
    del gone
    gc.collect()
    assert Read(room).reads(OURS, OURS, OURS) == 1
