"""core.facts: what webhooks say of stored messages, late, doubled and in any order."""

import json
from datetime import datetime
from itertools import permutations

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM, at, checkpoint_of, context, conversation, fetched, given, message, run_started
from milepost.core.checkpoint import Checkpoint
from milepost.core.decide import decide
from milepost.core.events import NO_TALLY
from milepost.core.facts import Edited, Reacted, after_fact, apply_facts, contradicts, detail_of
from milepost.core.model import (
    UNAVAILABLE,
    Conversation,
    ConversationRow,
    Interaction,
    InteractionEventRow,
    Known,
    RefusedRow,
    Table,
)
from milepost.core.records import Record
from milepost.core.webhooks import DueFact, FactsApplied, WebhookKind

MESSAGE = InteractionEventRow(
    "m_1", "t_1", STREAM.platform, STREAM.page_id, "ada", "in", "message", "hello", None, NOON, content_at=at(60)
)
CONVERSATION = ConversationRow(
    "t_1", STREAM.platform, STREAM.page_id, "ada", None, None, 5, 2, True, NOON, NOON, NOON, None, "print"
)
ATTACHED = '[{"type":"file"}]'


def fact(
    kind: WebhookKind,
    occurred_at: datetime,
    detail: str | None = None,
    *,
    of: str = "",
    row: InteractionEventRow = MESSAGE,
    is_superseded: bool = False,
) -> DueFact:
    return DueFact(f"{kind} {occurred_at} {of}", kind, of, occurred_at, detail, is_superseded, row)


def edit(seconds: float, text: str = "hallo", **rest: object) -> DueFact:
    return fact(WebhookKind.EDIT, at(seconds), detail_of(Edited(text)), **rest)  # type: ignore[arg-type]


def unsend(seconds: float) -> DueFact:
    return fact(WebhookKind.UNSEND, at(seconds))


def reaction(seconds: float, reaction: str | None = "love", of: str = "ada", **rest: object) -> DueFact:
    said = None if reaction is None else detail_of(Reacted(reaction, "\u2764"))
    return fact(WebhookKind.REACTION, at(seconds), said, of=of, **rest)  # type: ignore[arg-type]


def referral(seconds: float, said: str = '{"source":"ADS","ad_id":"55"}', of: str = "") -> DueFact:
    return fact(WebhookKind.REFERRAL, at(seconds), said, of=of)


def after(*facts: DueFact, row: InteractionEventRow = MESSAGE) -> InteractionEventRow:
    for each in facts:
        row = after_fact(row, each)
    return row


def reactions(row: InteractionEventRow) -> dict[str, str]:
    """Return who reacted how."""
    return {each["from"]: each["reaction"] for each in json.loads(row.reactions or "[]")}


class TestEdits:
    def test_a_later_edit_is_the_text(self) -> None:
        assert after(edit(90)) == replace(MESSAGE, text="hallo", edited_at=at(90), content_at=at(90))

    def test_an_edit_before_the_message_was_read_only_says_that_it_was_edited(self) -> None:
        assert after(edit(30)) == replace(MESSAGE, edited_at=at(30))

    def test_a_message_that_has_another_text_though_it_was_read_after_an_edit_is_read_again(self) -> None:
        assert contradicts(edit(30))
        assert not contradicts(edit(90)), "it is applied"
        assert not contradicts(edit(30, MESSAGE.text or ""))
        assert not contradicts(edit(30, is_superseded=True))
        assert not contradicts(edit(30, row=replace(MESSAGE, edited_at=at(50)))), "the reading found that"
        (row,) = applied(edit(30)).changes.conversations
        assert row.messages_fingerprint is None

    def test_an_edit_before_another_one_changes_nothing(self) -> None:
        later = after(edit(120, "newer"))
        assert after(edit(90), row=later) == later
        assert after(edit(90, is_superseded=True)) == MESSAGE

    def test_of_two_edits_at_the_same_instant_the_one_counts_that_no_other_supersedes(self) -> None:
        assert after(edit(90), edit(90, "newer")).text == "newer"

    def test_an_edit_brings_nothing_back_that_was_unsent(self) -> None:
        unsent = after(unsend(90))
        assert after(edit(120), row=unsent) == unsent

    def test_a_message_that_was_only_missing_is_there_after_all_if_it_is_edited_later(self) -> None:
        missing = replace(MESSAGE, text=None, deleted_at=at(90), content_at=None)
        assert after(edit(80), row=missing) == missing
        assert after(edit(100), row=missing).deleted_at is None

    def test_an_edit_of_a_message_that_had_no_content_is_a_message(self) -> None:
        bare = replace(MESSAGE, kind=UNAVAILABLE, text=None)
        assert (after(edit(90), row=bare).kind, after(edit(90), row=bare).text) == ("message", "hallo")

    def test_what_was_edited_before_times_were_noted_is_not_older_than_it_was(self) -> None:
        old = replace(MESSAGE, content_at=None, edited_at=at(100))
        assert after(edit(90), row=old) == old
        assert after(edit(110), row=old).text == "hallo"


class TestUnsent:
    def test_text_and_attachments_are_erased_and_the_row_stays(self) -> None:
        whole = replace(MESSAGE, attachments=ATTACHED, reactions="[]")
        expected = replace(whole, text=None, attachments=None, deleted_at=at(90), content_at=at(90))
        assert after(unsend(90), row=whole) == expected

    def test_a_message_stays_unsent_whenever_it_was_read_or_reported_again(self) -> None:
        unsent = after(unsend(30))
        assert (unsent.text, unsent.deleted_at) == (None, at(30))
        assert after(unsend(40), row=unsent) == unsent

    @pytest.mark.parametrize("order", [*permutations(range(3))])
    def test_no_order_brings_a_text_back(self, order: tuple[int, ...]) -> None:
        facts = (edit(70), unsend(80), edit(75, "newer"))
        found = after(*(facts[each] for each in order))
        assert (found.text, found.deleted_at) == (None, at(80))


class TestReactions:
    def test_everybody_has_the_latest_reaction(self) -> None:
        found = after(reaction(90), reaction(91, "sad", "bob"), reaction(92, "wow"))
        assert reactions(found) == {"bob": "sad", "ada": "wow"}
        assert json.loads(found.reactions or "")[1]["at"] == "2026-03-01T12:01:32Z"

    def test_an_earlier_reaction_that_comes_later_changes_nothing(self) -> None:
        found = after(reaction(92, "wow"))
        assert after(reaction(90), row=found) == after(reaction(92, "wow"), row=found) == found

    def test_a_reaction_that_was_taken_back_is_gone_and_does_not_come_back(self) -> None:
        assert after(reaction(90), reaction(91, None)).reactions is None
        assert after(reaction(90, is_superseded=True)) == MESSAGE

    def test_of_two_reactions_at_the_same_instant_the_one_counts_that_no_other_supersedes(self) -> None:
        """Which that is follows from their keys."""
        assert after(reaction(90), reaction(90, None)).reactions is None

    def test_a_reaction_without_a_name_or_an_emoji_is_a_reaction(self) -> None:
        bare = fact(WebhookKind.REACTION, at(90), detail_of(Reacted()), of="ada")
        assert json.loads(after(bare).reactions or "") == [{"from": "ada", "at": "2026-03-01T12:01:30Z"}]


class TestReferrals:
    def test_the_referral_of_the_message_takes_precedence_over_that_of_the_thread(self) -> None:
        own, of_thread = referral(0), referral(10, '{"ref":"r"}', "ada")
        assert after(own, of_thread) == after(of_thread, own) == replace(MESSAGE, referral=own.detail)
        assert after(of_thread).referral == '{"ref":"r"}'


# --- what is recorded -------------------------------------------------------------------------------------------------


def applied(*due: DueFact, known: Known | None = None, refused: tuple[RefusedRow, ...] = ()) -> Record:
    checkpoint: Checkpoint = given(run_started())
    pending = apply_facts(checkpoint, due, context(at(200), refused_rows=refused))
    assert pending.keys is not None
    assert pending.keys.conversations == ("t_1",)
    record = pending.record(known or Known({"t_1": CONVERSATION}))
    assert isinstance(record, Record)
    return record


def test_facts_of_a_message_are_applied_together_and_all_are_worked_off() -> None:
    due = (reaction(70), edit(80), edit(90, "newer"), referral(0), reaction(60, is_superseded=True))
    record = applied(*due)
    assert record.events == (FactsApplied(edited=2, reactions=1, referrals=1, outdated=1),)
    (row,) = record.changes.revised
    assert (row.text, row.edited_at, reactions(row)) == ("newer", at(90), {"ada": "love"})
    assert record.changes.settled == tuple(each.event_key for each in due)


def test_the_next_reading_of_a_conversation_is_compared_with_messages_that_were_edited() -> None:
    (row,) = applied(edit(90)).changes.conversations
    assert row == replace(CONVERSATION, messages_fingerprint=None)
    assert applied(reaction(90)).changes.conversations == ()
    assert applied(edit(90), known=Known()).changes.conversations == (), "the store has refused its row"


@pytest.mark.parametrize(
    ("snippet", "left"), [("hello", None), ("hel", None), ("hello, Bob", "hello, Bob"), ("", ""), (None, None)]
)
def test_what_an_unsent_message_said_does_not_stay_in_its_conversation(snippet: str | None, left: str | None) -> None:
    (row,) = applied(unsend(90), known=Known({"t_1": replace(CONVERSATION, snippet=snippet)})).changes.conversations
    assert row == replace(CONVERSATION, messages_fingerprint=None, snippet=left)


@pytest.mark.parametrize(("snippet", "left"), [("hello", "hallo"), ("hel", "hal"), ("hello, Bob", "hello, Bob")])
def test_a_snippet_says_what_an_edited_message_says_now(snippet: str, left: str) -> None:
    """Or its first text would stay when it is unsent later."""
    (row,) = applied(edit(90), known=Known({"t_1": replace(CONVERSATION, snippet=snippet)})).changes.conversations
    assert row == replace(CONVERSATION, messages_fingerprint=None, snippet=left)


def test_a_fact_that_is_no_news_is_worked_off_and_writes_nothing() -> None:
    record = applied(edit(90, is_superseded=True))
    assert record.events == (FactsApplied(outdated=1),)
    assert (record.changes.revised, record.changes.conversations) == ((), ())
    assert record.changes.settled


def test_what_the_store_refuses_is_worked_off_without_it() -> None:
    refused = (RefusedRow(Table.INTERACTION_EVENTS, "m_1", "why"),)
    record = applied(edit(90), refused=refused)
    assert (record.events, record.changes.revised) == ((FactsApplied(outdated=1),), ())


def test_a_conversation_that_the_page_has_read_has_nothing_unread() -> None:
    read = fact(WebhookKind.READ, at(90))
    record = applied(read)
    assert record.changes.conversations == (replace(CONVERSATION, unread_count=0, synced_at=at(200)),)
    assert record.events == (FactsApplied(reads=1),)
    for known, again in (
        (replace(CONVERSATION, unread_count=0), read),
        (replace(CONVERSATION, synced_at=at(100)), read),
        (CONVERSATION, replace(read, is_superseded=True)),
    ):
        record = applied(again, known=Known({"t_1": known}))
        assert (record.changes.conversations, record.events) == ((), (FactsApplied(outdated=1),))


def test_what_is_applied_counts_for_the_stream() -> None:
    checkpoint = given(run_started(), FactsApplied(edited=2, unsent=1, reactions=5))
    assert (checkpoint.total.edited, checkpoint.total.unsent) == (2, 1)
    assert checkpoint.run is not None
    assert checkpoint.run.tally == NO_TALLY, "they belong to no run"


# --- sweeps between facts ---------------------------------------------------------------------------------------------


def thread(*messages: Interaction) -> Conversation:
    return conversation("t_1", NOON, messages=messages)


def read(text: str | None, asked_at: datetime, stored: InteractionEventRow) -> InteractionEventRow:
    """Return a stored message after a sweep has read it with a text."""
    known = Known({"t_1": CONVERSATION}, interaction_events=frozenset({"m_1"}), messages={"m_1": stored})
    outcome = fetched(thread(message("m_1", NOON, text)), asked_at=asked_at)
    decision = decide(checkpoint_of(), outcome, context(at(300))).record(known)
    rows = decision.changes.revised if isinstance(decision, Record) else ()
    return rows[0] if rows else stored


def test_an_answer_to_an_earlier_request_does_not_undo_an_edit() -> None:
    edited = after(edit(90))
    assert read("hello", at(80), edited) == edited
    assert read("newest", at(100), edited).text == "newest"


def test_no_answer_brings_an_unsent_message_back() -> None:
    unsent = after(unsend(90))
    assert read("hello", at(80), unsent) == read("hello", at(100), unsent) == unsent


@pytest.mark.parametrize(("snippet", "left"), [("hel", None), ("another", "another")])
def test_no_answer_brings_back_what_an_unsent_message_said_as_the_snippet(snippet: str, left: str | None) -> None:
    """However often the list is read that has the message still."""
    known = Known({"t_1": CONVERSATION}, interaction_events=frozenset({"m_1"}), messages={"m_1": after(unsend(90))})
    listed = replace(thread(message("m_1", NOON, "hello")), snippet=snippet)
    decision = decide(checkpoint_of(), fetched(listed, asked_at=at(100)), context(at(300))).record(known)
    rows = decision.changes.conversations if isinstance(decision, Record) else ()
    assert [(row.snippet, row.messages_fingerprint) for row in rows] == [(left, None)] * len(rows)


def test_a_message_that_was_missing_and_is_read_again_is_there() -> None:
    missing = replace(MESSAGE, text=None, deleted_at=at(90), content_at=None)
    assert read("hello", at(100), missing).deleted_at is None


def test_new_messages_are_known_as_of_when_they_were_asked_for() -> None:
    decision = decide(checkpoint_of(), fetched(thread(message()), asked_at=at(5)), context(at(9))).record(Known())
    assert isinstance(decision, Record)
    assert [row.content_at for row in decision.changes.interaction_events] == [at(5)]


def test_an_answer_that_is_older_than_an_edit_leaves_no_fingerprint() -> None:
    """So that the next answer is compared, though it may be the same."""
    known = Known({"t_1": CONVERSATION}, interaction_events=frozenset({"m_1"}), messages={"m_1": after(edit(90))})
    outcome = fetched(
        replace(thread(message("m_1", NOON, "hello"), message("m_2", at(1))), updated_time=at(1)), asked_at=at(80)
    )
    decision = decide(checkpoint_of(), outcome, context(at(300))).record(known)
    assert isinstance(decision, Record)
    assert [row.messages_fingerprint for row in decision.changes.conversations] == [None]
