"""merge.difference: what of a batch is new."""

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.builders import NOON, STREAM, at, batch, contact, conversation, message, unreadable
from milepost.core.events import Tally
from milepost.core.merge import Difference, difference, keys_of
from milepost.core.model import Batch, Changes, Conversation, Known

NOTHING = Known()
LATER = at(3600)


def stored(read: Batch, known: Known = NOTHING) -> Known:
    """Return what the store knows once a batch is stored in addition to what it knew."""
    changes = difference(STREAM, read, known, NOON).changes
    return Known(
        known.conversations | {row.conversation_id: row for row in changes.conversations},
        known.contacts | {row.contact_id: row for row in changes.contacts},
        known.interaction_events | {row.event_id for row in changes.interaction_events},
    )


def again(read: Batch, known: Known) -> Difference:
    return difference(STREAM, read, known, LATER)


class TestReplacedCharacters:
    READ = replace(conversation(of=contact(), messages=[message("m_1")]), replaced_characters=3)

    def test_replaced_characters_are_counted_if_something_is_written(self) -> None:
        first = difference(STREAM, batch(self.READ, conversation("t_2")), NOTHING, NOON)
        assert first.tally.replaced_characters == 3

    def test_replaced_characters_are_not_counted_again_if_nothing_is_written(self) -> None:
        assert again(batch(self.READ), stored(batch(self.READ))).tally.replaced_characters == 0

    @pytest.mark.parametrize(
        "changed",
        [
            conversation(of=contact(), messages=[message("m_2")]),
            conversation(of=contact(name="Bo"), messages=[message("m_1")]),
            conversation(of=contact(), messages=[message("m_1")], snippet="new"),
        ],
    )
    def test_replaced_characters_are_counted_whichever_row_is_new(self, changed: Conversation) -> None:
        found = again(batch(replace(changed, replaced_characters=2)), stored(batch(self.READ)))
        assert found.tally.replaced_characters == 2


class TestNewConversations:
    def test_a_new_conversation_is_inserted_with_its_contact_and_messages(self) -> None:
        read = conversation("t_1", at(-5), of=contact("c_1", "Ada"), messages=[message("m_1"), message("m_2")])

        found = difference(STREAM, batch(read), NOTHING, NOON)

        (row,) = found.changes.conversations
        assert (row.conversation_id, row.platform, row.page_id, row.contact_id) == (
            "t_1",
            "messenger",
            "1234567890",
            "c_1",
        )
        assert (row.updated_time, row.first_synced_at, row.synced_at, row.deleted_at) == (at(-5), NOON, NOON, None)
        (person,) = found.changes.contacts
        assert (person.contact_id, person.name, person.last_interaction_at) == ("c_1", "Ada", at(-5))
        assert [event.event_id for event in found.changes.interaction_events] == ["m_1", "m_2"]
        assert found.tally == Tally(batches=1, inserted=1, contacts=1, interaction_events=2)

    def test_a_new_conversation_without_participants_is_kept_without_a_contact(self) -> None:
        found = difference(STREAM, batch(conversation(of=None, messages=[message()])), NOTHING, NOON)

        assert found.changes.conversations[0].contact_id is None
        assert found.changes.interaction_events[0].contact_id is None
        assert found.changes.contacts == ()
        assert found.tally.without_contact == 1

    def test_a_new_conversation_twice_in_one_batch_is_inserted_once_in_its_newest_state(self) -> None:
        newer = conversation("t_1", at(9), snippet="new", messages=[message("m_1"), message("m_2")])
        older = conversation("t_1", at(0), snippet="old", messages=[message("m_1")])

        for items in ((newer, older), (older, newer)):
            found = difference(STREAM, batch(*items), NOTHING, NOON)

            (row,) = found.changes.conversations
            assert (row.updated_time, row.snippet) == (at(9), "new")
            assert sorted(event.event_id for event in found.changes.interaction_events) == ["m_1", "m_2"]
            assert found.tally.inserted == 1
            assert found.tally.interaction_events == 2


class TestConversationsReadAgain:
    def test_a_conversation_read_again_unchanged_changes_nothing(self) -> None:
        read = batch(conversation(of=contact(), messages=[message()], snippet="hello", message_count=1))

        found = again(read, stored(read))

        assert found.changes == Changes()
        assert found.changes == Changes()
        assert found.tally == Tally(batches=1, unchanged=1)

    def test_a_conversation_in_a_newer_state_is_updated(self) -> None:
        known = stored(batch(conversation(of=contact(), snippet="hello", message_count=1)))

        found = again(batch(conversation(updated_time=at(9), of=contact(), snippet="bye", message_count=2)), known)

        (row,) = found.changes.conversations
        assert (row.snippet, row.message_count, row.updated_time) == ("bye", 2, at(9))
        assert (row.first_synced_at, row.synced_at) == (NOON, LATER)
        assert found.tally == Tally(batches=1, updated=1, contacts=1)

    def test_a_conversation_in_an_older_state_leaves_the_row_alone(self) -> None:
        known = stored(batch(conversation(updated_time=at(9), snippet="new", of=contact(name="Ada"))))

        found = again(batch(conversation(updated_time=at(8), snippet="old", of=contact(name="Augusta"))), known)

        assert found.changes == Changes()
        assert found.tally == Tally(batches=1, unchanged=1)

    def test_a_stored_time_in_the_future_keeps_no_news_out(self) -> None:
        """The API may once have sent a wrong time."""
        wrong = conversation(updated_time=at(86_400 * 365), of=contact(), snippet="old")

        found = again(batch(conversation(updated_time=LATER, of=contact(), snippet="new")), stored(batch(wrong)))

        (row,), (person,) = found.changes.conversations, found.changes.contacts
        assert (row.snippet, row.updated_time, person.last_interaction_at) == ("new", LATER, LATER)

    def test_an_older_state_is_one_though_our_clock_is_behind(self) -> None:
        year = 86_400 * 365
        known = stored(batch(conversation(updated_time=at(year), of=contact(), snippet="new")))

        found = again(batch(conversation(updated_time=at(year - 1), of=contact(), snippet="old")), known)

        assert found.changes == Changes()

    def test_a_conversation_in_an_older_state_still_adds_missing_messages(self) -> None:
        known = stored(batch(conversation(updated_time=at(9), messages=[message("m_2")])))

        found = again(batch(conversation(updated_time=at(8), messages=[message("m_1")])), known)

        assert [event.event_id for event in found.changes.interaction_events] == ["m_1"]

    def test_a_conversation_with_the_same_updated_time_takes_the_latest_values(self) -> None:
        known = stored(batch(conversation(updated_time=NOON, message_count=1)))

        found = again(batch(conversation(updated_time=NOON, message_count=2)), known)

        assert found.changes.conversations[0].message_count == 2

    def test_fields_that_the_api_leaves_out_keep_their_values(self) -> None:
        known = stored(batch(conversation(of=contact("c_1", "Ada"), snippet="hello")))

        found = again(batch(conversation(updated_time=at(9), of=contact("c_1", None))), known)

        (row,) = found.changes.conversations
        assert (row.snippet, row.contact_id) == ("hello", "c_1")
        assert found.changes.contacts[0].name == "Ada"

    @pytest.mark.parametrize(("updated_time", "count"), [(NOON, 3), (at(9), None)])
    def test_a_count_of_messages_that_the_api_leaves_out_is_kept_only_for_the_same_state(
        self, updated_time: datetime, count: int | None
    ) -> None:
        known = stored(batch(conversation(snippet="hello", message_count=3)))

        found = again(batch(Conversation("t_1", updated_time, snippet="bye")), known)

        assert found.changes.conversations[0].message_count == count

    def test_every_other_field_is_updated_if_it_is_there_and_kept_if_it_is_not(self) -> None:
        first = Conversation("t_1", NOON, contact("c_1", "Ada", "ada"), "/one", "hello", 1, 1, can_reply=True)
        second = Conversation("t_1", at(9), contact("c_2", "Bea", "bea"), "/two", "bye", 2, 0, can_reply=False)
        silent = Conversation("t_1", at(10), contact("c_2"))

        known = stored(batch(silent), stored(batch(second), stored(batch(first))))

        row = known.conversations["t_1"]
        assert (row.contact_id, row.link, row.snippet) == ("c_2", "/two", "bye")
        assert (row.unread_count, row.can_reply, row.updated_time) == (0, False, at(10))

    def test_the_names_of_a_contact_are_updated_and_kept_in_the_same_way(self) -> None:
        first = conversation(of=contact("c_1", "Ada", "ada"))
        renamed = conversation(updated_time=at(9), of=contact("c_1", None, "countess"))

        person = stored(batch(renamed), stored(batch(first))).contacts["c_1"]

        assert (person.name, person.username, person.last_interaction_at) == ("Ada", "countess", at(9))

    def test_a_conversation_without_its_contact_keeps_it_for_new_messages_too(self) -> None:
        known = stored(batch(conversation(of=contact("c_1"))))

        found = again(batch(conversation(updated_time=at(9), of=None, messages=[message("m_2")])), known)

        assert found.changes.conversations[0].contact_id == "c_1"
        assert found.changes.interaction_events[0].contact_id == "c_1"

    def test_a_conversation_read_again_is_no_longer_deleted(self) -> None:
        known = stored(batch(conversation("t_1")))
        row = known.conversations["t_1"]
        gone = Known({"t_1": replace(row, deleted_at=NOON)})

        found = again(batch(conversation("t_1")), gone)

        assert found.changes.conversations[0].deleted_at is None
        assert found.tally.updated == 1


def test_messages_are_named_once_their_conversation_has_a_contact() -> None:
    known = stored(batch(conversation(messages=[message("m_1")]), conversation("t_2", of=contact("c_2"))))

    found = again(batch(conversation(of=contact("c_1")), conversation("t_2", of=contact("c_3"))), known)

    assert found.changes.named == ("t_1",)
    assert again(batch(conversation(messages=[message("m_1")])), known).changes.named == ()


class TestInteractionEvents:
    def test_interaction_events_are_written_once_and_never_changed(self) -> None:
        known = stored(batch(conversation(messages=[message("m_1", text="hello")])))

        found = again(batch(conversation(updated_time=at(9), messages=[message("m_1", text="deleted")])), known)

        assert found.changes.interaction_events == ()
        assert found.tally.interaction_events == 0


class TestContacts:
    def test_a_contact_of_several_threads_is_one_row_with_the_latest_interaction(self) -> None:
        one, other = conversation("t_1", at(5), of=contact("c_1")), conversation("t_2", at(9), of=contact("c_1"))

        for items in ((one, other), (other, one)):
            found = difference(STREAM, batch(*items), NOTHING, NOON)

            (person,) = found.changes.contacts
            assert person.last_interaction_at == at(9)
            assert found.tally.contacts == 1

    def test_contacts_that_change_their_names_without_writing_are_updated(self) -> None:
        known = stored(batch(conversation(of=contact("c_1", "Ada"))))

        found = again(batch(conversation(of=contact("c_1", "Augusta"))), known)

        (person,) = found.changes.contacts
        assert (person.name, person.first_seen_at, person.updated_at) == ("Augusta", NOON, LATER)

    @pytest.mark.parametrize("newest_first", [True, False])
    def test_contacts_keep_a_name_that_only_their_older_thread_has(self, newest_first: bool) -> None:
        newer = conversation("t_new", at(9), of=contact("c_1", name=None, username="ada"))
        older = conversation("t_old", at(1), of=contact("c_1", name="Ada"))
        threads = (newer, older) if newest_first else (older, newer)

        (row,) = difference(STREAM, batch(*threads), Known(), NOON).changes.contacts

        assert (row.name, row.username, row.last_interaction_at) == ("Ada", "ada", at(9))


class TestForgottenPeople:
    @pytest.mark.parametrize("forgotten", ["t_1", "c_1"])
    def test_nothing_of_a_forgotten_person_is_written(self, forgotten: str) -> None:
        read = batch(conversation("t_1", of=contact("c_1"), messages=[message("m_1")]), conversation("t_2"))

        found = difference(STREAM, read, Known(forgotten=frozenset({forgotten})), NOON)

        assert [row.conversation_id for row in found.changes.conversations] == ["t_2"]
        assert (found.changes.contacts, found.changes.interaction_events) == ((), ())
        assert found.tally == Tally(batches=1, inserted=1, without_contact=1)

    def test_nothing_of_a_forgotten_person_in_a_group_is_written(self) -> None:
        sent = replace(message("m_1"), contact_id="c_9")
        read = batch(conversation("t_1", of=contact("c_1"), messages=[sent, message("m_2")]))

        found = difference(STREAM, read, Known(forgotten=frozenset({"c_9"})), NOON)

        assert [event.event_id for event in found.changes.interaction_events] == ["m_2"]

    def test_a_conversation_without_a_contact_is_that_of_whoever_wrote_in_it(self) -> None:
        sent = replace(message("m_1"), contact_id="c_9")
        read = batch(conversation("t_1", snippet="what they wrote", messages=[sent]))

        found = difference(STREAM, read, Known(forgotten=frozenset({"c_9"})), NOON)

        assert found.changes == Changes()


def test_the_keys_of_a_batch_name_every_row_that_it_may_touch() -> None:
    other = replace(message("m_3"), contact_id="c_9")
    read = batch(
        conversation("t_1", of=contact("c_1"), messages=[message("m_1")]),
        conversation("t_2", messages=[message("m_2"), other]),
        unreadable("t_bad"),
    )

    keys = keys_of(STREAM, read)

    assert keys.stream == STREAM
    assert keys.conversations == ("t_1", "t_2", "t_bad")
    assert keys.contacts == ("c_1", "c_9")
    assert keys.interaction_events == ("m_1", "m_2", "m_3")


STATES = [
    batch(
        conversation(
            thread,
            at(second),
            of=contact(f"c_{thread}", f"name at {second}"),
            snippet=f"said at {second}",
            message_count=second,
            messages=[message(f"m_{thread}_{number}", at(number)) for number in range(second + 1)],
        )
    )
    for thread in ("t_1", "t_2")
    for second in range(3)
]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(STATES)))
def test_reading_again_in_any_order_ends_in_the_same_tables(before: list[Batch]) -> None:
    """Whatever is read, in any order and however often, the newest state of each row wins."""
    known = NOTHING
    for read in [*before, *reversed(STATES)]:
        known = stored(read, known)

    in_order = NOTHING
    for read in STATES:
        in_order = stored(read, in_order)

    assert known == in_order
