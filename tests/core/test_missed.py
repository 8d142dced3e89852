"""core.missed: what the API withholds is on record, and what was read to its end is not."""

from datetime import timedelta

import pytest
from msgspec import Struct
from msgspec.structs import replace

from kit.builders import (
    GAP,
    NOON,
    RATE_LIMIT,
    STREAM,
    UNKNOWN,
    at,
    checkpoint_of,
    contact,
    context,
    conversation,
    entries,
    fetched,
    given,
    message,
    messages_fetched,
    problem,
    refused,
    run_started,
    sweep_started,
)
from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.decide import decide
from milepost.core.events import (
    BatchShrunk,
    DeadLetterClosed,
    Event,
    RedriveFailed,
    Resolution,
    Stage,
    SweepCompleted,
    Tally,
)
from milepost.core.evolve import fold
from milepost.core.merge import difference
from milepost.core.message_reading import ROUNDS, decide_messages, payload_of, request_of
from milepost.core.missed import DELETED, WINDOW, WINDOW_LASTS, is_beyond_window, is_hint
from milepost.core.model import (
    UNAVAILABLE,
    Detail,
    Interaction,
    Known,
    MessagePage,
    Platform,
    Stream,
)
from milepost.core.plan import Policy
from milepost.core.ports import DueDeadLetter, MessagesFetched, MessagesOutcome
from milepost.core.position import (
    Gap,
    GapEnding,
    MessagesFailed,
    MessagesMissed,
    MessagesOwed,
    MessagesRead,
    Missed,
    MissedReason,
    Mode,
)
from milepost.core.records import Record
from milepost.core.redrive import redrive

INSTAGRAM = Stream(Platform.INSTAGRAM, STREAM.page_id)
DONE = given(run_started(), SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)), MessagesOwed((GAP,)))
AT_END = replace(GAP, resets=1)
LAST_ATTEMPT = ROUNDS * Policy().attempts - 1
GONE = problem(100, subcode=33)
SAYS_DELETED = problem(DELETED)


class Store(Struct, frozen=True):
    """What a store holds of the conversation, and the estimate of the list that showed the gap."""

    known: Known
    count: int | None
    stream: Stream


def stored(count: int | None = None, *, messages: int = 0, below: int = 0, stream: Stream = STREAM) -> Store:
    """Return what a store holds: how many messages, and how many below the gap."""
    before = conversation("t_1", at(-30), of=contact())
    rows = difference(stream, fetched(before).batch, Known(), NOON).changes
    known = Known({row.conversation_id: row for row in rows.conversations})
    return Store(replace(known, stored_messages=messages, stored_below=below), count, stream)


def settled(outcome: MessagesOutcome, held: Store | Known, gap: Gap = AT_END) -> tuple[Event, ...]:
    store = held if isinstance(held, Store) else Store(held, None, STREAM)
    gap, done = replace(gap, message_count=store.count), replace(DONE, stream=store.stream)
    decision = decide_messages(done, gap, outcome, context()).record(store.known)
    assert isinstance(decision, Record)
    return decision.events


def missed_by(*found: Event) -> list[Missed]:
    return [each for event in found if isinstance(event, MessagesMissed) for each in event.missed]


def endings(found: tuple[Event, ...]) -> list[GapEnding | None]:
    return [event.ending for event in found if isinstance(event, MessagesRead | MessagesFailed)]


def without_content(key: str, seconds: float) -> Interaction:
    return replace(message(key, at(seconds)), kind=UNAVAILABLE, text=None, attachments=None)


class TestAConversationThatEndsTooSoon:
    def test_messages_that_are_missing_by_the_estimate_are_recorded_with_their_times(self) -> None:
        events = settled(messages_fetched(), stored(61, messages=21, below=1))

        assert missed_by(*events) == [
            Missed("t_1", MissedReason.WINDOW, at(-3600), at(-120), 40, is_estimate=True),
        ]
        assert endings(events) == [GapEnding.WITHHELD]

    def test_the_number_of_missing_messages_is_left_open_without_an_estimate(self) -> None:
        (missed,) = missed_by(*settled(messages_fetched(), stored(messages=21, below=1)))

        assert (missed.count, missed.is_estimate) == (None, False)

    @pytest.mark.parametrize("count", [None, 20, 21])
    def test_a_conversation_that_was_read_to_its_oldest_message_misses_nothing(self, count: int | None) -> None:
        events = settled(messages_fetched(message("m_1", at(-180))), stored(count, messages=20), replace(GAP))

        assert missed_by(*events) == []
        assert endings(events) == [GapEnding.THREAD_END]

    def test_a_single_message_too_many_in_an_estimate_is_no_evidence(self) -> None:
        last = messages_fetched(message("m_1", at(-180)))

        assert missed_by(*settled(last, stored(132, messages=129), GAP)) == []
        assert len(missed_by(*settled(last, stored(142, messages=129), GAP))) == 1

    def test_a_single_message_is_evidence_if_the_previous_answer_announced_more(self) -> None:
        assert [each.count for each in missed_by(*settled(messages_fetched(), stored(21, messages=20)))] == [1]
        assert missed_by(*settled(messages_fetched(), stored(20, messages=20))) == []

    def test_a_count_of_fewer_messages_than_are_stored_is_no_evidence_that_all_were_read(self) -> None:
        """Some of those below were unsent, where no list shows it, so those between may be withheld all the same."""
        (missed,) = missed_by(*settled(messages_fetched(), stored(115, messages=120, below=100)))

        assert (missed.count, missed.from_at, missed.until_at) == (None, at(-3600), at(-120))

    @pytest.mark.parametrize("count", [20, 120])
    def test_a_count_that_agrees_with_what_is_stored_with_or_without_those_below_is_evidence(self, count: int) -> None:
        """A conversation that was deleted and goes on has only what came since."""
        assert missed_by(*settled(messages_fetched(), stored(count, messages=120, below=100))) == []

    def test_a_history_that_ends_with_an_empty_page_and_of_which_more_are_stored_than_counted_misses_nothing(
        self,
    ) -> None:
        history = replace(AT_END, history_to=at(-86_400), listed=WINDOW)

        assert missed_by(*settled(messages_fetched(), stored(115, messages=120, below=100), history)) == []

    def test_a_walk_that_ends_above_where_the_list_began_has_left_a_hole(self) -> None:
        """What has arrived since fills the window, and the list's count knows nothing of it."""
        restarted = replace(AT_END, cursor=None)
        (missed,) = missed_by(*settled(messages_fetched(message("m_9", at(-10))), stored(2, messages=2), restarted))

        assert (missed.count, missed.from_at, missed.until_at) == (None, at(-3600), at(-10))

    def test_a_stored_message_that_is_reached_ends_the_gap_and_nothing_is_missed(self) -> None:
        store = stored(100, messages=21, below=1)
        known = replace(store, known=replace(store.known, interaction_events=frozenset({"m_old"})))
        events = settled(messages_fetched(message("m_old", at(-4000))), known)

        assert (missed_by(*events), endings(events)) == ([], [GapEnding.CLOSED])

    def test_instagram_that_promises_more_and_gives_none_withholds_it(self) -> None:
        assert missed_by(*settled(messages_fetched(), stored(stream=INSTAGRAM)))
        assert not missed_by(*settled(messages_fetched(), stored()))

    @pytest.mark.parametrize(
        "gap", [replace(AT_END, limit=1), replace(AT_END, resets=1, listed=WINDOW)], ids=["refused", "promised"]
    )
    def test_without_an_estimate_messenger_says_so_by_its_answers(self, gap: Gap) -> None:
        answer = refused(SAYS_DELETED) if gap.limit else messages_fetched()

        assert [each.count for each in missed_by(*settled(answer, stored(), gap))] == [None]

    def test_messages_are_counted_at_the_end_only(self) -> None:
        def counted(*found: Interaction, next_cursor: str | None = None) -> bool:
            keys = decide_messages(DONE, GAP, messages_fetched(*found, next_cursor=next_cursor), context()).keys
            return keys is not None and keys.counts_messages is not None

        assert counted()
        assert not counted(message("m_1", at(-180)), next_cursor="older")


class TestMessagesWithoutContent:
    def test_messages_of_a_batch_without_content_are_stored_and_recorded_by_conversation(self) -> None:
        read = conversation(
            "t_1",
            at(-10),
            of=contact(),
            messages=(without_content("a", -10), message("b", at(-20)), without_content("c", -30)),
        )
        record = decide(checkpoint_of(), fetched(read), context()).record(Known())

        assert isinstance(record, Record)
        assert missed_by(*record.events) == [Missed("t_1", MissedReason.NO_CONTENT, at(-30), at(-10), 2)]
        assert len(record.changes.interaction_events) == 3

    def test_stored_messages_without_content_are_not_recorded_again(self) -> None:
        read = conversation("t_1", at(-10), of=contact(), messages=(without_content("a", -10),))
        known = Known(interaction_events=frozenset({"a"}))
        record = decide(checkpoint_of(), fetched(read), context()).record(known)

        assert isinstance(record, Record)
        assert missed_by(*record.events) == []

    def test_content_that_was_not_asked_for_is_not_withheld(self) -> None:
        read = conversation("t_1", at(-10), of=contact(), messages=(without_content("a", -10),))
        lean = given(BatchShrunk(1, Detail.LEAN, UNKNOWN), after=given(run_started(), sweep_started()))

        record = decide(lean, fetched(read), context()).record(Known())

        assert isinstance(record, Record)
        assert missed_by(*record.events) == []

    def test_messages_of_a_page_without_content_are_stored_and_recorded(self) -> None:
        page = messages_fetched(without_content("a", -180), without_content("b", -240), next_cursor="oldest")
        events = settled(page, stored(), GAP)

        assert missed_by(*events) == [Missed("t_1", MissedReason.NO_CONTENT, at(-240), at(-180), 2)]
        assert endings(events) == [None]

    def test_bare_ids_end_the_reading_because_others_have_no_more(self) -> None:
        page = MessagesFetched(MessagePage((), "oldest", bare_ids=("a", "b")), NOON, 0.1)
        events = settled(page, stored(130, messages=20), GAP)

        assert missed_by(*events) == [
            Missed("t_1", MissedReason.NO_CONTENT, at(-3600), at(-120), 110, is_estimate=True),
        ]
        assert endings(events) == [GapEnding.WITHHELD]

    def test_bare_ids_down_to_a_stored_one_are_counted(self) -> None:
        page = MessagesFetched(MessagePage((), None, bare_ids=("a", "b", "old")), NOON, 0.1)
        store = stored(130, messages=20, below=1)
        known = replace(store, known=replace(store.known, interaction_events=frozenset({"old"})))

        assert [each.count for each in missed_by(*settled(page, known, GAP))] == [2]


class TestWhatIsAnsweredAsDeleted:
    def test_a_page_answered_as_deleted_is_requested_in_smaller_pages_first(self) -> None:
        (failed,) = settled(refused(SAYS_DELETED), Known(), GAP)

        assert isinstance(failed, MessagesFailed)
        assert (failed.ending, request_of(failed.gap).limit) == (None, 12)

    def test_a_single_message_that_is_deleted_ends_the_gap(self) -> None:
        events = settled(refused(SAYS_DELETED), stored(61, messages=21, below=1), replace(GAP, limit=1))

        assert [(each.reason, each.count) for each in missed_by(*events)] == [(MissedReason.DELETED, 40)]
        assert endings(events) == [GapEnding.WITHHELD]

    def test_a_conversation_that_is_gone_leaves_a_record_of_what_was_owed(self) -> None:
        events = settled(refused(GONE), Known(), replace(GAP, attempts=LAST_ATTEMPT))

        assert missed_by(*events) == [Missed("t_1", MissedReason.DELETED, at(-3600), at(-120))]
        assert endings(events) == [GapEnding.GONE]

    @pytest.mark.parametrize("seconds", [0.0, 0.4])
    def test_all_older_messages_are_missed_if_the_conversation_was_stored_without_messages(
        self, seconds: float
    ) -> None:
        read_without_messages = replace(GAP, back_to=at(-120), reached_at=at(-120 + seconds), attempts=LAST_ATTEMPT)
        events = settled(refused(GONE), Known(), read_without_messages)

        assert [each.from_at for each in missed_by(*events)] == [None]

    def test_a_redrive_closes_its_dead_letter(self) -> None:
        letter = DeadLetter("d_1", STREAM, Stage.FETCH, "t_1/older/g_1", "why", NOON)
        due = DueDeadLetter(letter, payload_of(replace(GAP, message_count=61)))
        record = redrive(DONE, due, refused(SAYS_DELETED), context()).record(stored(messages=21, below=1).known)

        assert isinstance(record, Record)
        missed, closed = record.events
        assert [each.reason for each in missed_by(missed)] == [MissedReason.DELETED]
        assert isinstance(closed, DeadLetterClosed)
        assert closed.resolution is Resolution.REDRIVEN

    @pytest.mark.parametrize(
        "outcome", [refused(GONE), MessagesFetched(MessagePage(()), NOON, 0.1)], ids=("gone", "empty")
    )
    def test_a_redrive_that_finds_nothing_is_believed_after_a_day_and_if_the_last_one_found_nothing_either(
        self, outcome: MessagesOutcome
    ) -> None:
        def after(seconds: float, reason: str, held: Known | None = None) -> Record:
            letter = DeadLetter("d_1", STREAM, Stage.FETCH, "t_1/older/g_1", reason, NOON)
            due = DueDeadLetter(letter, payload_of(replace(GAP, cursor=None, listed=20)))
            pending = redrive(DONE, due, outcome, context(at(seconds)))
            assert pending.keys is not None
            assert pending.keys.conversations == ("t_1",)
            record = pending.record(held or Known())
            assert isinstance(record, Record)
            return record

        (first,) = after(86_400, "an outage").events
        assert isinstance(first, RedriveFailed)
        (failed,) = after(86_399, first.reason).events
        missed, closed = after(86_400, first.reason).events
        (moved,) = after(86_400, first.reason, stored(stream=Stream(STREAM.platform, "another")).known).events

        assert isinstance(failed, RedriveFailed)
        assert isinstance(moved, RedriveFailed), "another page has the conversation, and may read them"
        assert [each.reason for each in missed_by(missed)] == [MissedReason.DELETED]
        assert isinstance(closed, DeadLetterClosed)

    def test_a_rate_limit_says_nothing_about_messages(self) -> None:
        assert missed_by(*settled(refused(RATE_LIMIT), Known(), GAP)) == []


class TestAStreamWhoseApiEndsAtAWindow:
    LISTED = replace(AT_END, listed=WINDOW)

    def after(self, *events: Event, before: Checkpoint = DONE, minutes: float = 0.0) -> Checkpoint:
        moment = NOON + timedelta(minutes=minutes)
        return fold(entries(*events, after=before, recorded_at=moment), before)

    def test_a_window_is_known_once_nothing_came_beyond_what_the_list_showed(self) -> None:
        checkpoint = self.after(MessagesRead(self.LISTED, ending=GapEnding.WITHHELD))

        assert checkpoint.window_at == NOON
        assert is_beyond_window(checkpoint.window_at, self.LISTED, NOON + timedelta(days=1))

    @pytest.mark.parametrize("outcome", [messages_fetched(), refused(SAYS_DELETED)])
    def test_one_conversation_of_messenger_tells_nothing_of_others(self, outcome: MessagesOutcome) -> None:
        """It may have been deleted, or answered in an incident: the others would never be asked for."""
        gap = replace(self.LISTED, limit=1)
        checkpoint = self.after(*settled(outcome, stored(61, messages=21), gap))

        assert checkpoint.window_at is None
        assert checkpoint.window_hints == ("t_1",)

    def test_one_conversation_of_instagram_shows_a_window(self) -> None:
        events = settled(messages_fetched(), stored(61, messages=21, stream=INSTAGRAM), self.LISTED)

        assert self.after(*events).window_at == NOON

    def test_several_conversations_of_messenger_show_a_window(self) -> None:
        checkpoint = DONE
        for conversation_id in ("t_2", "t_2", "t_3"):
            gap = replace(self.LISTED, conversation_id=conversation_id)
            checkpoint = self.after(MessagesRead(gap, ending=GapEnding.WITHHELD, is_hint=True), before=checkpoint)
        assert checkpoint.window_hints == ("t_2", "t_3")
        assert is_hint(checkpoint, replace(self.LISTED, conversation_id="t_3"))
        assert not is_hint(checkpoint, self.LISTED)

        checkpoint = self.after(MessagesRead(self.LISTED, ending=GapEnding.WITHHELD), before=checkpoint)
        assert (checkpoint.window_at, checkpoint.window_hints) == (NOON, ())

    def test_hints_are_forgotten_once_older_messages_come(self) -> None:
        hinted = self.after(MessagesRead(self.LISTED, ending=GapEnding.WITHHELD, is_hint=True))
        more = MessagesRead(replace(self.LISTED, stored=30), stored=30)

        assert self.after(more, before=hinted).window_hints == ()

    @pytest.mark.parametrize(
        "gap",
        [
            replace(LISTED, listed=5),  # the list was asked for fewer
            replace(LISTED, stored=30),  # there were more
        ],
    )
    def test_a_conversation_with_fewer_listed_or_more_read_messages_shows_no_window(self, gap: Gap) -> None:
        assert self.after(MessagesRead(gap, ending=GapEnding.WITHHELD)).window_at is None
        assert not is_beyond_window(NOON, gap, NOON)

    def test_the_end_of_a_window_is_tried_again_after_some_days(self) -> None:
        later = WINDOW_LASTS / timedelta(minutes=1)
        checkpoint = self.after(MessagesRead(self.LISTED, ending=GapEnding.WITHHELD))

        assert not is_beyond_window(checkpoint.window_at, self.LISTED, NOON + WINDOW_LASTS)
        soon = self.after(MessagesRead(self.LISTED, ending=GapEnding.WITHHELD), before=checkpoint, minutes=later - 1)
        assert soon.window_at == NOON, "what was not asked again tells nothing new"
        late = self.after(MessagesRead(self.LISTED, ending=GapEnding.WITHHELD), before=checkpoint, minutes=later)
        assert late.window_at == NOON + WINDOW_LASTS

    def test_a_window_is_forgotten_once_older_messages_come(self) -> None:
        checkpoint = self.after(MessagesRead(self.LISTED, ending=GapEnding.WITHHELD))
        more = MessagesRead(replace(self.LISTED, stored=30), stored=30)

        assert self.after(more, before=checkpoint).window_at is None

    def test_missed_messages_add_up(self) -> None:
        exact = Missed("t_1", MissedReason.NO_CONTENT, NOON, NOON, 2)
        unknown = Missed("t_2", MissedReason.DELETED, NOON, NOON)
        checkpoint = self.after(MessagesMissed((exact, unknown)), MessagesMissed((exact,)))

        assert checkpoint.missed is not None
        assert checkpoint.missed.messages == 5
