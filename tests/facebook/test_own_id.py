"""Which participant of a thread is us: the expected ids, checked against the threads."""

from collections.abc import Iterable

import pytest

from kit.graph_answers import ACCOUNT, ACCOUNT_ID, PAGE_ID, Json, encoded, instagram_person, listed, message, thread
from milepost.core.model import Batch, Contact, Direction, OwnId, OwnIdState
from milepost.facebook.decoding import Edge, decode
from milepost.facebook.threads import MIN_THREADS, OwnIds
from milepost.facebook.wire import People, Person

SCOPED = "26503000000000001"
EDGE_URL = f"https://graph.facebook.com/v26.0/{PAGE_ID}/conversations"
NEXT = f"{EDGE_URL}?after=x"
EXPECTED, UNKNOWN = OwnId(OwnIdState.EXPECTED), OwnId(OwnIdState.UNKNOWN)
ANOTHER = OwnId(OwnIdState.ANOTHER, "us")


def told(*threads: str) -> list[tuple[str, People | None]]:
    """Return threads, each written as its participants: `us a`. Nobody is named in a thread without any."""
    return [
        (f"t_{n} {each}", People([Person(id_) for id_ in each.split()]) if each else None)
        for n, each in enumerate(threads)
    ]


def with_person(number: int, own: Json = ACCOUNT, **fields: object) -> Json:
    """Return a thread with a person, our side first, whose reply is on top."""
    person = instagram_person(f"120000000000000{number}", f"person{number}")
    return thread(
        f"aWdf{number}",
        message(f"m_{number}_2", own),
        message(f"m_{number}_1", person),
        participants={"data": [own, person]},
        **fields,
    )


def read(own_ids: OwnIds, *threads: Json, next_url: str | None = None) -> Batch:
    batch = decode(encoded(listed(*threads, next_url=next_url)), 200, Edge(own_ids, EDGE_URL))
    assert isinstance(batch, Batch)
    return batch


def directions(batch: Batch) -> list[str]:
    return [event.direction for each in batch.conversations for event in each.interactions]


class TestCheck:
    def test_an_expected_id_among_the_participants_is_ours(self) -> None:
        assert OwnIds(["page", "us"]).check(told("a us", "us b")) == EXPECTED

    def test_another_id_in_each_of_enough_threads_with_different_people_is_taken_as_ours(self) -> None:
        own_ids = OwnIds(["wrong"])

        assert own_ids.check(told("a us", "us b", "c us")) == ANOTHER
        assert own_ids.all == {"wrong", "us"}

    @pytest.mark.parametrize(
        "threads",
        [
            pytest.param(["a us"], id="one thread"),
            pytest.param(["a us", "us b"], id="two threads"),
            pytest.param(["a us", "us a", "a us", "us a"], id="one customer in many threads"),
            pytest.param(["a us", "us b", "b us", "us a"], id="two customers in many threads"),
            pytest.param(["a b", "c d", "e f", "g h"], id="nobody is in all threads"),
            pytest.param(["us a b c d"], id="one group"),
            pytest.param(["us them a", "them us b", "us them c", "us them d"], id="two are in all threads"),
        ],
    )
    def test_what_is_not_certain_is_said_to_be_unknown(self, threads: list[str]) -> None:
        own_ids = OwnIds(["wrong"])

        assert own_ids.check(told(*threads), is_head=True, is_end=True) == UNKNOWN
        assert own_ids.all == {"wrong"}

    @pytest.mark.parametrize(
        "threads",
        [
            pytest.param([], id="no thread"),
            pytest.param(["", "", ""], id="no participants"),
            pytest.param(["a", "b", "c", "d"], id="only the other side"),
            pytest.param(["us us", "us", "us", "us"], id="only ourselves"),
        ],
    )
    def test_threads_with_fewer_than_two_participants_say_nothing(self, threads: list[str]) -> None:
        own_ids = OwnIds(["wrong"])

        assert own_ids.check(told(*threads), is_head=True, is_end=True) is None
        assert own_ids.all == {"wrong"}

    def test_groups_and_threads_with_missing_participants_are_no_obstacle(self) -> None:
        assert OwnIds(["wrong"]).check(told("a us", "", "us b c d", "us", "c us")) == ANOTHER

    def test_small_responses_add_up(self) -> None:
        own_ids = OwnIds(["wrong"])

        found = [own_ids.check(told(f"us {each}")) for each in "aabcd"]

        assert found == [None, None, None, ANOTHER, ANOTHER]

    def test_a_small_inbox_is_told_by_its_end(self) -> None:
        own_ids = OwnIds(["wrong"])

        assert own_ids.check(told("us a"), is_head=True) is None
        assert own_ids.check(told("us b"), is_end=True) == UNKNOWN

    def test_the_end_alone_says_nothing_where_a_walk_was_resumed(self) -> None:
        assert OwnIds(["us"]).check(told("b c"), is_end=True) is None

    def test_a_few_odd_threads_say_nothing_once_our_id_was_seen(self) -> None:
        own_ids = OwnIds(["us"])
        own_ids.check(told("us a"))

        assert own_ids.check(told("b c"), is_end=True) is None
        assert own_ids.check(told("us a", "b c")) == EXPECTED

    def test_an_id_that_earlier_threads_have_shown_is_taken_without_new_evidence(self) -> None:
        own_ids = OwnIds(["wrong"])
        own_ids.recall("us")

        assert own_ids.check(told("a us")) == ANOTHER
        assert own_ids.check(told("a")) is None
        assert own_ids.all == {"wrong", "us"}

    def test_an_expected_id_that_turns_up_is_preferred_to_one_that_was_taken(self) -> None:
        own_ids = OwnIds(["page", "late"])
        own_ids.recall("us")

        assert own_ids.check(told("a late", "b late")) == EXPECTED
        assert own_ids.all == {"page", "late"}

    def test_an_expected_id_beside_the_taken_one_is_that_of_a_customer(self) -> None:
        own_ids = OwnIds(["page"])
        own_ids.recall("us")

        assert own_ids.check(told("page us", "a us")) == ANOTHER

    def test_another_id_takes_over_from_one_that_was_taken(self) -> None:
        own_ids = OwnIds(["wrong"])
        own_ids.recall("us")

        assert own_ids.check(told("a new", "new b", "c new")) == OwnId(OwnIdState.ANOTHER, "new")


class TestReading:
    def test_contacts_and_directions_are_right_although_the_configured_id_is_in_no_thread(self) -> None:
        """Captured: an account answers to two ids, and participants have the other one."""
        batch = read(OwnIds([PAGE_ID, SCOPED]), *map(with_person, range(5)))

        assert batch.own_id == OwnId(OwnIdState.ANOTHER, ACCOUNT_ID)
        assert [each.contact.username for each in batch.conversations if each.contact] == [
            f"person{n}" for n in range(5)
        ]
        assert directions(batch) == [Direction.OUT, Direction.IN] * 5

    def test_they_are_right_where_single_items_are_odd(self) -> None:
        batch = read(OwnIds([PAGE_ID, SCOPED]), *map(with_person, range(4)), with_person(4, message_count="many"), {})

        assert batch.own_id == OwnId(OwnIdState.ANOTHER, ACCOUNT_ID)
        assert directions(batch) == [Direction.OUT, Direction.IN] * 5
        assert len(batch.unreadable) == 1

    def test_a_thread_in_which_anybody_may_be_us_has_no_contact(self) -> None:
        batch = read(OwnIds([PAGE_ID, SCOPED]), with_person(1))

        assert batch.own_id == UNKNOWN
        assert batch.conversations[0].contact is None

    def test_a_single_participant_is_the_contact(self) -> None:
        person = instagram_person("1", "ada")
        batch = read(OwnIds([PAGE_ID, SCOPED]), thread("t_1", participants={"data": [person]}))

        assert batch.conversations[0].contact == Contact("1", None, "ada")

    def test_a_thread_with_ourselves_has_no_contact(self) -> None:
        batch = read(OwnIds([ACCOUNT_ID]), thread("t_1", message(sender=ACCOUNT), participants={"data": [ACCOUNT] * 2}))

        assert batch.conversations[0].contact is None
        assert directions(batch) == [Direction.OUT]

    def test_the_first_batches_of_a_walk_say_nothing_before_there_is_enough(self) -> None:
        own_ids = OwnIds([PAGE_ID, SCOPED])
        batches = [read(own_ids, with_person(n), next_url=NEXT) for n in range(MIN_THREADS + 1)]

        states: Iterable[OwnIdState | None] = (each.own_id.state if each.own_id else None for each in batches)
        assert list(states) == [None, None, OwnIdState.ANOTHER, OwnIdState.ANOTHER]
