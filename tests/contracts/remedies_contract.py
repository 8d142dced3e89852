"""What every Store must do for the remedies: dead letters, notes of what a full sweep misses, forgotten people.

Beside the fixtures of store_contract.py, a subclass has `forget`: an async function that erases a contact of a
stream, and counts the contacts, conversations, interaction events and payloads that it removed.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime

from msgspec.structs import replace

from contracts.store_contract import Look, commit
from kit.builders import NOON, STREAM, at
from milepost.core.checkpoint import DeadLetter
from milepost.core.events import (
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    RedriveFailed,
    Resolution,
    Stage,
    StreamPaused,
)
from milepost.core.model import (
    Changes,
    ConversationRow,
    DeadLetterPayload,
    InteractionEventRow,
    Keys,
    Known,
    KnownDeadLetter,
    Platform,
    Stream,
)
from milepost.core.ports import DueDeadLetter, OpenGap, Store
from milepost.core.position import (
    Gap,
    GapEnding,
    HistoryLeft,
    MessagesFailed,
    MessagesOwed,
    MessagesRead,
    Stretch,
    ThreadsSearched,
    UnopenedThread,
)
from milepost.core.problems import Problem, ProblemKind
from stores.histories import commit_after, contact_row, conversation_row, event_row

Forget = Callable[[Stream, str], Awaitable[tuple[int, int, int, int]]]

OTHER = Stream(Platform.INSTAGRAM, STREAM.page_id)
SWEEP, NEXT_SWEEP = at(1_000), at(2_000)
PROBLEM = Problem(ProblemKind.NETWORK, "connection reset")


# --- the backlog ------------------------------------------------------------------------------------------------------


def gap(key: str = "g_1", conversation_id: str = "t_1", *, newest_at: datetime = NOON) -> Gap:
    return Gap(key, conversation_id, NOON, newest_at, at(-60), at(-3600), cursor="older")


def event_at(event_id: str, conversation_id: str, seconds: float) -> InteractionEventRow:
    return replace(event_row(event_id, conversation_id=conversation_id), occurred_at=at(seconds))


async def open_gaps(store: Store, *, of: Stream = STREAM, limit: int = 100) -> list[str]:
    return [each.gap.gap_id for each in await store.open_gaps(of, limit)]


class BacklogContract:
    async def test_a_stream_without_a_past_owes_nothing(self, store: Store) -> None:
        assert await store.open_gaps(STREAM, 10) == ()

    async def test_a_gap_is_open_with_all_that_is_known_of_it(self, store: Store) -> None:
        whole = replace(gap(), stored=50, walked_to=at(-90), idle=1, limit=12, attempts=2, resets=1, retry_at=at(9))
        await commit(store, MessagesOwed((whole,)))

        assert await store.open_gaps(STREAM, 10) == (OpenGap(whole, is_forgotten=False),)

    async def test_gaps_come_the_newest_first_and_no_more_than_were_asked_for(self, store: Store) -> None:
        await commit(store, MessagesOwed(tuple(gap(f"g_{n}", newest_at=at(n * 7 % 5)) for n in range(5))))

        assert await open_gaps(store) == ["g_2", "g_4", "g_1", "g_3", "g_0"]
        assert await open_gaps(store, limit=2) == ["g_2", "g_4"]

    async def test_a_gap_is_as_the_latest_entry_has_it_until_nothing_is_owed(self, store: Store) -> None:
        await commit(store, MessagesOwed((gap(), gap("g_2"))))
        further = replace(gap(), cursor="oldest", reached_at=at(-120), stored=50)

        await commit(store, MessagesRead(further, 50))
        assert (await store.open_gaps(STREAM, 10))[1].gap == further
        retried = replace(further, attempts=1, retry_at=at(5))
        await commit(store, MessagesFailed(retried, PROBLEM))
        assert (await store.open_gaps(STREAM, 10))[1].gap == retried
        await commit(store, MessagesRead(retried, 1, ending=GapEnding.CLOSED))
        assert await open_gaps(store) == ["g_2"]
        await commit(store, MessagesFailed(gap("g_2"), PROBLEM, GapEnding.GONE))
        assert await open_gaps(store) == []

    async def test_streams_owe_for_themselves(self, store: Store) -> None:
        await commit(store, MessagesOwed((gap("mine"),)))
        await commit(store, MessagesOwed((gap("theirs"),)), of=OTHER)

        assert await open_gaps(store) == ["mine"]
        assert await open_gaps(store, of=OTHER) == ["theirs"]

    async def test_what_is_owed_of_a_person_who_was_erased_is_marked(self, store: Store, forget: Forget) -> None:
        rows = Changes((conversation_row("t_1"),), (contact_row("c_1"),))
        await commit(store, MessagesOwed((gap("g_1", "t_1"), gap("g_2", "t_2"))), changes=rows)

        await forget(STREAM, "c_1")

        assert {each.gap.gap_id: each.is_forgotten for each in await store.open_gaps(STREAM, 10)} == {
            "g_1": True,
            "g_2": False,
        }

    async def test_gaps_between_two_sweeps_come_before_histories(self, store: Store) -> None:
        history = replace(gap("history", newest_at=at(60)), history_to=at(-9000))
        await commit(store, MessagesOwed((gap("g_1"), history, gap("g_2", newest_at=at(30)))))

        assert await open_gaps(store) == ["g_2", "g_1", "history"]

    async def test_a_history_at_its_limit_owes_nothing_and_is_kept(self, store: Store) -> None:
        history = replace(gap("g_1"), history_to=at(-9000))
        at_once = replace(gap("g_2"), reached_at=at(-30), history_to=at(-30))
        await commit(store, MessagesOwed((history, at_once, replace(gap("g_3"), history_to=at(-9000)))))
        assert (await store.load(STREAM)).history == HistoryLeft(2, 2)
        read = replace(history, reached_at=at(-9000))
        await commit(store, MessagesRead(read, 20, ending=GapEnding.HISTORY_LIMIT))

        assert await open_gaps(store) == ["g_3"]
        assert (await store.load(STREAM)).history == HistoryLeft(1, 2)
        assert await store.gaps_at_limit(STREAM, at(-10_000), 10) == (at_once, read)
        assert await store.gaps_at_limit(STREAM, at(-10_000), 1) == (at_once,)
        assert await store.gaps_at_limit(STREAM, at(-9000), 10) == (at_once,)
        assert await store.gaps_at_limit(OTHER, at(-10_000), 10) == ()

    async def test_a_history_that_is_owed_further_back_is_open_again(self, store: Store) -> None:
        history = replace(gap("g_1"), history_to=at(-60))
        await commit(store, MessagesOwed((history,)))
        assert await open_gaps(store) == []
        await commit(store, MessagesOwed((replace(history, history_to=at(-9000)),)))

        assert await open_gaps(store) == ["g_1"]
        assert await store.gaps_at_limit(STREAM, at(-10_000), 10) == ()

    async def test_conversations_are_searched_that_have_messages_and_no_history_of_the_stream(
        self, store: Store
    ) -> None:
        there = tuple(conversation_row(f"t_{n}", synced_at=at(n), message_count=n or None) for n in range(5))
        gone = replace(conversation_row("gone", synced_at=at(1)), deleted_at=NOON)
        messages = (
            event_at("m_1", "t_0", -3),
            event_at("m_2", "t_0", -9),
            event_at("m_3", "t_2", -2),
            event_at("m_4", "t_4", 4),
            event_at("m_5", "gone", 1),
            event_at("m_6", "t_3", 1),
        )
        of_record = replace(gap("g_3", "t_3"), history_to=at(-9000))
        await commit(store, MessagesOwed((of_record, gap("g_2", "t_2"))), changes=Changes((*there, gone), (), messages))
        unsent = replace(event_at("m_2", "t_0", -9), deleted_at=NOON)
        await commit(
            store,
            MessagesOwed((replace(of_record, conversation_id="t_4", gap_id="g_4"),)),
            of=OTHER,
            changes=Changes(revised=(unsent,)),
        )

        searched = await store.search_threads(STREAM, None, 10)

        assert searched.until is None
        assert sorted(searched.threads, key=lambda thread: thread.conversation_id) == [
            UnopenedThread("t_0", NOON, None, 1, at(-9), at(-3)),
            UnopenedThread("t_2", at(2), 2, 1, at(-2), at(-2)),
            UnopenedThread("t_4", at(4), 4, 1, at(4), at(4)),
        ]
        assert await store.search_threads(OTHER, None, 10) == ThreadsSearched((), None)

    async def test_only_messages_up_to_the_stored_state_of_a_conversation_are_compared_with_its_count(
        self, store: Store
    ) -> None:
        """The store may have refused the row of a later state, whose messages are stored."""
        rows = tuple(conversation_row(key, synced_at=NOON, message_count=3) for key in ("t_1", "t_2"))
        times = {"t_1": (-9.0, 0.0, 0.999, 1.0, 60.0), "t_2": (60.0, 90.0)}
        messages = (event_at(f"{key}_{n}", key, n) for key, seconds in times.items() for n in seconds)
        await commit(store, changes=Changes(rows, (), tuple(messages)))

        searched = await store.search_threads(STREAM, None, 10)

        assert sorted(searched.threads, key=lambda thread: thread.conversation_id) == [
            UnopenedThread("t_1", NOON, 3, 3, at(-9), at(0.999)),
            UnopenedThread("t_2", NOON, 3, 0, at(60), at(60)),
        ]

    async def test_a_search_goes_on_after_each_step_until_the_last(self, store: Store) -> None:
        rows = tuple(conversation_row(f"t_{n}", synced_at=at(n // 2)) for n in range(7))
        messages = tuple(event_at(f"m_{n}", f"t_{n}", 0) for n in range(7))
        await commit(store, changes=Changes(rows, (), messages))
        found, steps, after = list[str](), list[datetime | None](), None
        while not steps or after is not None:
            searched = await store.search_threads(STREAM, after, 3)
            found += [thread.conversation_id for thread in searched.threads]
            after = searched.until
            steps.append(after)

        assert steps == [at(1), at(3), None]
        assert sorted(found) == [f"t_{n}" for n in range(7)], "those with the same time are in one step"

    async def test_a_gap_that_the_commit_of_its_end_opens_again_is_open(self, store: Store) -> None:
        await commit(
            store, MessagesOwed((gap(),)), MessagesRead(gap(), ending=GapEnding.CLOSED), MessagesOwed((gap(),))
        )

        assert await open_gaps(store) == ["g_1"]


# --- dead letters -----------------------------------------------------------------------------------------------------


def opening(
    key: str = "d_1", subject: str = "t_bad", *, redrive_at: datetime | None = None, fingerprint: str = "f_1"
) -> DeadLetterOpened:
    return DeadLetterOpened(key, Stage.FETCH, subject, "id: expected str", redrive_at, fingerprint)


async def find_open_dead_letters(
    store: Store, *dead_letters: DeadLetterOpened, of: Stream = STREAM, payload: str = "{}"
) -> None:
    payloads = tuple(DeadLetterPayload(each.dead_letter_id, payload) for each in dead_letters)
    await commit(store, *dead_letters, changes=Changes(payloads=payloads), of=of)


async def commit_at(store: Store, seconds: float, event: Event, *payloads: DeadLetterPayload) -> None:
    checkpoint, changes = await store.load(STREAM), Changes(payloads=payloads)
    await store.commit(commit_after(checkpoint, event, changes=changes, now=at(seconds)))


async def due(store: Store, now: datetime = NOON, *, limit: int = 100, of: Stream = STREAM) -> list[str]:
    return [each.dead_letter.dead_letter_id for each in await store.due_dead_letters(of, now, limit)]


async def known_dead_letters(store: Store, *subjects: str, of: Stream = STREAM) -> dict[str, KnownDeadLetter]:
    return (await store.known(Keys(of, subjects=subjects))).dead_letters


class DeadLettersContract:
    async def test_an_open_dead_letter_is_known_by_its_subject_and_found_with_its_payload(self, store: Store) -> None:
        await find_open_dead_letters(store, opening(redrive_at=at(60)), payload='{"id": 5}')

        dead_letter = DeadLetter(
            "d_1", STREAM, Stage.FETCH, "t_bad", "id: expected str", NOON, 0, at(60), fingerprint="f_1"
        )
        assert await known_dead_letters(store, "t_bad", "t_good") == {
            "t_bad": KnownDeadLetter("d_1", "f_1", NOON, is_open=True)
        }
        assert await known_dead_letters(store, "t_good", "T_BAD", "d_1") == {}
        assert await store.find_open_dead_letters(("d_0", "d_1")) == (DueDeadLetter(dead_letter, '{"id": 5}'),)

    async def test_a_refused_row_is_known_as_its_dead_letter_holds_it_now(self, store: Store) -> None:
        opened = DeadLetterOpened("d_1", Stage.STORE, "t_bad/row", "too long", fingerprint="f_1")
        await commit_at(store, 0, opened, DeadLetterPayload("d_1", '{"is": "old"}'))
        await commit_at(store, 1, StreamPaused("Ada"), DeadLetterPayload("d_1", '{"is": "new"}'))

        assert await known_dead_letters(store, "t_bad/row") == {
            "t_bad/row": KnownDeadLetter("d_1", "f_1", NOON, is_open=True, payload='{"is": "new"}')
        }

    async def test_dead_letters_belong_to_their_stream(self, store: Store) -> None:
        await find_open_dead_letters(store, opening("d_1", redrive_at=NOON))
        await find_open_dead_letters(store, opening("d_2", redrive_at=NOON), of=OTHER)

        assert await known_dead_letters(store, "t_bad", of=OTHER) == {
            "t_bad": KnownDeadLetter("d_2", "f_1", NOON, is_open=True)
        }
        assert await due(store) == ["d_1"]
        assert await due(store, of=OTHER) == ["d_2"]

    async def test_a_dead_letter_is_due_from_its_instant_on_or_never_by_itself(self, store: Store) -> None:
        await find_open_dead_letters(store, opening("d_1", redrive_at=at(60)), opening("d_2", "t_2"))

        assert await due(store, at(59.999)) == []
        assert await due(store, at(60)) == await due(store, at(10**9)) == ["d_1"]

    async def test_a_dead_letter_is_due_if_it_is_further_ahead_than_any_redrive_is_postponed(
        self, store: Store
    ) -> None:
        """The clock was ahead when it was postponed."""
        await find_open_dead_letters(store, opening(redrive_at=at(86_400)))

        assert await due(store, NOON) == []
        assert await due(store, at(-1)) == ["d_1"]

    async def test_the_oldest_due_dead_letters_come_first(self, store: Store) -> None:
        for n in (5, 3, 4, 1, 2):
            payload = DeadLetterPayload(f"d_{n}", "{}")
            await commit_at(store, n, opening(f"d_{n}", f"t_{n}", redrive_at=at(100 - n)), payload)

        assert await due(store, at(100)) == ["d_1", "d_2", "d_3", "d_4", "d_5"]
        assert await due(store, at(100), limit=2) == ["d_1", "d_2"]

    async def test_a_failed_redrive_is_counted_and_postpones_the_next_one(self, store: Store, look: Look) -> None:
        await find_open_dead_letters(store, opening(redrive_at=NOON))

        await commit(store, RedriveFailed("d_1", 1, "still bad", at(60)))

        assert await due(store, at(59)) == []
        (again,) = await store.due_dead_letters(STREAM, at(60), 100)
        assert (again.dead_letter.attempts, again.dead_letter.reason, again.payload) == (1, "still bad", "{}")
        await commit(store, RedriveFailed("d_1", 2, "given up"))
        assert await due(store, at(10**9)) == []
        assert (await look()).dead_letters["d_1"].attempts == 2

    async def test_a_closed_dead_letter_loses_its_payload_and_is_neither_due_nor_open(
        self, store: Store, look: Look
    ) -> None:
        await find_open_dead_letters(store, opening("d_1", redrive_at=NOON), opening("d_2", "t_2", redrive_at=NOON))

        await commit(store, DeadLetterClosed("d_1", Resolution.RECOVERED))

        tables = await look()
        assert tables.payloads == {"d_2": "{}"}
        assert tables.dead_letters["d_1"].resolution is Resolution.RECOVERED
        assert tables.dead_letters["d_1"].closed_at == NOON
        assert tables.dead_letters["d_1"].redrive_at is None
        assert await due(store) == ["d_2"]
        assert [each.dead_letter.dead_letter_id for each in await store.find_open_dead_letters(("d_1", "d_2"))] == [
            "d_2"
        ]

    async def test_only_those_closed_dead_letters_are_known_that_a_person_discarded(
        self, store: Store, look: Look
    ) -> None:
        for number, resolution in enumerate(Resolution):
            await find_open_dead_letters(store, opening(f"d_{number}", resolution.value))
            await commit(store, DeadLetterClosed(f"d_{number}", resolution, reason="not needed"))

        found = await known_dead_letters(store, *(each.value for each in Resolution))

        discarded = list(Resolution).index(Resolution.DISCARDED)
        assert found == {"discarded": KnownDeadLetter(f"d_{discarded}", "f_1", NOON, is_open=False)}
        assert (await look()).dead_letters[f"d_{discarded}"].note == "not needed"

    async def test_the_latest_dead_letter_about_a_subject_counts(self, store: Store) -> None:
        for number, key in enumerate(("d_9", "d_8", "d_7")):
            await commit_at(store, number, opening(key, fingerprint=key))
            assert await known_dead_letters(store, "t_bad") == {
                "t_bad": KnownDeadLetter(key, key, at(number), is_open=True)
            }

            await commit_at(store, number, DeadLetterClosed(key, Resolution.DISCARDED))
            assert await known_dead_letters(store, "t_bad") == {
                "t_bad": KnownDeadLetter(key, key, at(number), is_open=False)
            }

    async def test_a_dead_letter_that_is_opened_and_closed_at_once_leaves_no_payload(
        self, store: Store, look: Look
    ) -> None:
        payload = DeadLetterPayload("d_1", "{}")

        await commit(
            store, opening(), DeadLetterClosed("d_1", Resolution.REDRIVEN), changes=Changes(payloads=(payload,))
        )

        assert (await look()).payloads == {}
        assert (await look()).dead_letters["d_1"].closed_at == NOON


# --- what a full sweep misses -----------------------------------------------------------------------------------------


def lying_at(conversation_id: str, seconds: float, *, of: Stream = STREAM) -> ConversationRow:
    return replace(conversation_row(conversation_id, of=of), updated_time=at(seconds))


def stretch(
    older_than: datetime | None = None,
    newer_than: datetime | None = None,
    *seen: str,
    sweep: datetime = SWEEP,
) -> Stretch:
    return Stretch(sweep, older_than, newer_than, seen)


async def asked(
    store: Store, about: Stretch | None = None, *conversations: str, sweep: datetime = SWEEP, of: Stream = STREAM
) -> Known:
    return await store.known(Keys(of, conversations, full_sweep_at=sweep, stretch=about))


async def counts(store: Store, about: Stretch | None = None, *, sweep: datetime = SWEEP) -> tuple[int, int]:
    """Return how many conversations are neither seen nor noted, and how many are noted."""
    known = await asked(store, about, sweep=sweep)
    return known.unseen, known.all_missed


class SweepNotesContract:
    async def test_unseen_conversations_are_counted_between_the_ends_of_a_stretch(self, store: Store) -> None:
        rows = tuple(lying_at(f"t_{n}", n) for n in range(10))
        await commit(store, changes=Changes(rows))

        assert await counts(store, stretch(at(8), at(3))) == (4, 0)
        assert await counts(store, stretch(at(8), at(3), "t_4", "t_7", "t_9", "t_x")) == (2, 0)
        assert await counts(store, stretch(at(8))) == (8, 0)
        assert await counts(store, stretch(None, at(3))) == (6, 0)
        assert await counts(store, stretch()) == (10, 0)
        assert await counts(store, stretch(at(3), at(3))) == await counts(store, stretch(at(3), at(4))) == (0, 0)
        assert await counts(store) == (0, 0)

    async def test_the_ends_of_a_stretch_differ_by_the_millisecond(self, store: Store) -> None:
        await commit(store, changes=Changes((lying_at("t_1", 5), lying_at("t_2", 5.001), lying_at("t_3", 5.1))))

        assert await counts(store, stretch(at(5.1), at(5))) == (1, 0)
        assert await counts(store, stretch(at(6), at(5.001))) == (1, 0)
        assert await counts(store, stretch(at(5.1), at(4))) == (2, 0)

    async def test_unseen_conversations_are_not_those_of_other_pages_or_deleted_ones(self, store: Store) -> None:
        await commit(store, changes=Changes((replace(lying_at("t_1", 1), deleted_at=NOON), lying_at("t_2", 2))))
        await commit(store, changes=Changes((lying_at("t_3", 3, of=OTHER),)), of=OTHER)
        elsewhere = Stream(STREAM.platform, "elsewhere")
        await commit(store, changes=Changes((lying_at("t_4", 4, of=elsewhere),)), of=elsewhere)

        assert await counts(store, stretch()) == (1, 0)
        await commit(store, changes=Changes(missed=stretch()))
        known = await asked(store, stretch(), "t_1", "t_2", "t_3", "t_4")
        assert known == Known(conversations=known.conversations, missed=frozenset({"t_2"}), all_missed=1)

    async def test_a_missed_conversation_is_noted_once_and_for_its_sweep(self, store: Store) -> None:
        await commit(store, changes=Changes(tuple(lying_at(f"t_{n}", n) for n in range(10))))

        await commit(store, changes=Changes(missed=stretch(at(5), None, "t_2")))
        await commit(store, changes=Changes(missed=stretch(at(5), at(2))))

        known = await asked(store, stretch(at(7)), "t_1", "t_2", "t_9", "t_x")
        assert known == Known(conversations=known.conversations, unseen=3, missed=frozenset({"t_1"}), all_missed=4)
        other = await asked(store, stretch(at(7), sweep=NEXT_SWEEP), "t_1", sweep=NEXT_SWEEP)
        assert other == Known(conversations=other.conversations, unseen=7)
        assert (await asked(store, None, "t_1", of=OTHER)).missed == frozenset()
        assert await store.known(Keys(STREAM, subjects=("t_1",))) == Known()

    async def test_the_stored_conversations_of_a_stream_are_counted_where_that_is_asked_for(self, store: Store) -> None:
        gone = replace(lying_at("t_gone", 2), deleted_at=at(-60))
        await commit(store, changes=Changes((*(lying_at(f"t_{n}", n) for n in range(5)), gone)))
        await commit(store, changes=Changes((lying_at("t_other", 2, of=OTHER),)), of=OTHER)

        assert (await store.known(Keys(STREAM, counts_stored=True))).stored == 5
        assert (await store.known(Keys(OTHER, counts_stored=True, full_sweep_at=SWEEP))).stored == 1
        assert (await store.known(Keys(STREAM))).stored == 0

    async def test_a_conversation_that_is_found_is_no_longer_missed(self, store: Store) -> None:
        await commit(store, changes=Changes(tuple(lying_at(f"t_{n}", n) for n in range(5))))
        await commit(store, changes=Changes(missed=stretch()))

        await commit(store, changes=Changes(found=("t_1", "t_3", "t_x")))

        assert (await asked(store, None, "t_0", "t_1", "t_2", "t_3")).missed == {"t_0", "t_2"}
        assert await counts(store, stretch()) == (2, 3)

    async def test_the_end_of_a_sweep_marks_what_it_misses_as_deleted_and_nothing_else(
        self, store: Store, look: Look
    ) -> None:
        rows = {f"t_{n}": lying_at(f"t_{n}", n) for n in range(5)}
        long_gone = replace(lying_at("t_gone", 2), deleted_at=at(-60))
        await commit(store, changes=Changes((*rows.values(), long_gone)))
        await commit(store, changes=Changes((lying_at("t_other", 2, of=OTHER),), missed=stretch()), of=OTHER)
        await commit(store, changes=Changes(missed=stretch(at(4), at(0), "t_2")))

        await commit(store, changes=Changes(missed_are_deleted_at=at(60)))

        gone = {key: replace(rows[key], deleted_at=at(60)) for key in ("t_1", "t_3")}
        stored = (await look()).conversations
        assert stored == rows | gone | {"t_gone": long_gone, "t_other": lying_at("t_other", 2, of=OTHER)}
        assert await counts(store, stretch()) == (3, 0)
        assert (await asked(store, of=OTHER)).all_missed == 1

    async def test_a_sweep_with_failures_forgets_what_it_misses(self, store: Store, look: Look) -> None:
        await commit(store, changes=Changes((lying_at("t_1", 1),)))
        await commit(store, changes=Changes(missed=stretch()))

        await commit(store, changes=Changes(forgets_missed=True))

        assert (await look()).conversations["t_1"].deleted_at is None
        assert await counts(store, stretch()) == (1, 0)

    async def test_the_last_batch_is_written_found_noted_and_then_the_sweep_ended(
        self, store: Store, look: Look
    ) -> None:
        """All in one commit: what the batch contains is not missed, what it lacks is."""
        await commit(store, changes=Changes(tuple(lying_at(f"t_{n}", n) for n in range(6))))
        await commit(store, changes=Changes(missed=stretch(None, at(3))))
        back, moved = lying_at("t_4", 4), lying_at("t_1", 100)

        await commit(
            store,
            changes=Changes(
                (back, moved),
                missed=stretch(at(3), None, "t_0", "t_4"),
                found=("t_4",),
                missed_are_deleted_at=at(60),
            ),
        )

        stored = (await look()).conversations
        assert {key for key, row in stored.items() if row.deleted_at is not None} == {"t_2", "t_5"}

    async def test_an_abandoned_sweep_has_no_part_in_the_end_of_another(self, store: Store, look: Look) -> None:
        await commit(store, changes=Changes(tuple(lying_at(f"t_{n}", n) for n in range(5))))
        await commit(store, changes=Changes(missed=stretch(None, at(2))))

        await commit(store, changes=Changes(missed=stretch(at(2), None, "t_0", sweep=NEXT_SWEEP)))
        assert await counts(store, stretch(sweep=NEXT_SWEEP), sweep=NEXT_SWEEP) == (4, 1)
        await commit(store, changes=Changes(missed_are_deleted_at=at(60)))

        stored = (await look()).conversations
        assert {key for key, row in stored.items() if row.deleted_at is not None} == {"t_1"}
        assert await counts(store) == await counts(store, sweep=NEXT_SWEEP) == (0, 0)


# --- forgotten people -------------------------------------------------------------------------------------------------


def rows_of(person: str, *, of: Stream = STREAM) -> Changes:
    """Return a person's rows: a contact, two conversations, and an event of each side in both."""
    threads = [f"t_{person}_{n}" for n in range(2)]
    return Changes(
        tuple(conversation_row(each, of=of, contact_id=person) for each in threads),
        (contact_row(person, of=of),),
        tuple(
            replace(event_row(f"m_{each}_{side}", of=of, conversation_id=each, direction=side), contact_id=person)
            for each in threads
            for side in ("in", "out")
        ),
    )


def said_by(person: str | None, event_id: str, conversation_id: str) -> InteractionEventRow:
    return replace(event_row(event_id, conversation_id=conversation_id), contact_id=person)


class ForgettingContract:
    async def test_forgetting_removes_all_of_a_person_and_nothing_of_others(
        self, store: Store, look: Look, forget: Forget
    ) -> None:
        await commit(store, changes=rows_of("ada"))
        in_a_group = (said_by("ada", "m_1", "t_group"), said_by("bob", "m_2", "t_group"))
        in_hers = (said_by("bob", "m_3", "t_ada_0"), said_by(None, "m_4", "t_ada_1"))
        await commit(store, changes=Changes(interaction_events=(*in_a_group, *in_hers)))
        await commit(store, changes=rows_of("bob"))
        namesake = replace(contact_row("ada", of=OTHER), name="another Ada")
        await commit(store, changes=Changes(contacts=(namesake,), interaction_events=()), of=OTHER)
        before = await look()

        assert await forget(STREAM, "ada") == (1, 2, 7, 0)

        tables = await look()
        bobs = rows_of("bob")
        assert set(tables.conversations.values()) == set(bobs.conversations)
        assert set(tables.contacts.values()) == {*bobs.contacts, namesake}
        assert set(tables.interaction_events.values()) == {*bobs.interaction_events, in_a_group[1]}
        assert tables.journal == before.journal
        assert tables.checkpoints == before.checkpoints == tables.refold()

    async def test_the_person_and_their_conversations_are_known_as_forgotten(
        self, store: Store, forget: Forget
    ) -> None:
        await commit(store, changes=rows_of("ada"))
        await commit(store, changes=rows_of("bob"))
        await forget(STREAM, "ada")

        threads, people = ("t_ada_0", "t_ada_1", "t_bob_0", "t_new"), ("ada", "bob")
        assert (await store.known(Keys(STREAM, threads, people))).forgotten == {"t_ada_0", "t_ada_1", "ada"}
        assert (await store.known(Keys(STREAM, people, threads))).forgotten == frozenset()
        assert (await store.known(Keys(OTHER, threads, people))).forgotten == frozenset()

    async def test_forgetting_again_finds_nothing_more(self, store: Store, look: Look, forget: Forget) -> None:
        await commit(store, changes=rows_of("ada"))
        await forget(STREAM, "ada")
        before = await look()

        assert await forget(STREAM, "ada") == (0, 0, 0, 0)

        assert await look() == before
        assert (await store.known(Keys(STREAM, ("t_ada_0",), ("ada",)))).forgotten == {"t_ada_0", "ada"}

    async def test_a_commit_that_was_under_way_does_not_bring_them_back(
        self, store: Store, look: Look, forget: Forget
    ) -> None:
        await commit(store, changes=rows_of("ada"))
        hers, bobs = rows_of("ada"), rows_of("bob")
        late = (
            said_by("ada", "m_5", "t_ada_0"),
            said_by(None, "m_6", "t_ada_1"),
            said_by("ada", "m_7", "t_group"),
            said_by("bob", "m_8", "t_new"),
        )
        under_way = Changes(
            (*hers.conversations, conversation_row("t_new", contact_id="ada"), *bobs.conversations),
            (*hers.contacts, *bobs.contacts),
            (*hers.interaction_events, *late, *bobs.interaction_events),
        )
        await forget(STREAM, "ada")

        await commit(store, changes=under_way)

        tables = await look()
        assert set(tables.conversations.values()) == set(bobs.conversations)
        assert set(tables.contacts.values()) == set(bobs.contacts)
        assert set(tables.interaction_events.values()) == set(bobs.interaction_events)

    async def test_somebody_who_never_wrote_is_kept_out_as_well(self, store: Store, look: Look, forget: Forget) -> None:
        assert await forget(STREAM, "ada") == (0, 0, 0, 0)

        await commit(store, changes=rows_of("ada"))
        await commit(store, changes=rows_of("ada", of=OTHER), of=OTHER)

        tables = await look()
        assert {row.platform for row in tables.conversations.values()} == {OTHER.platform}
        assert set(tables.contacts.values()) == {contact_row("ada", of=OTHER)}

    async def test_forgetting_deletes_the_payloads_about_them_and_leaves_their_dead_letters_due(
        self, store: Store, look: Look, forget: Forget
    ) -> None:
        await commit(store, changes=rows_of("ada"))
        about_her = ("t_ada_0", "t_ada_0/messages", "t_ada_1/events/m_9", "contact ada")
        about_others = ("t_ada", "t_ada_00", "t_ada_00/messages", "contact adam", "sha256:1")
        for number, subject in enumerate((*about_her, *about_others)):
            await find_open_dead_letters(store, opening(f"d_{number}", subject))
        await find_open_dead_letters(
            store, opening("d_names", "t_9"), payload='{"participants": {"data": [{"id": "ada"}]}}'
        )
        await find_open_dead_letters(store, opening("d_other", "t_ada_0"), of=OTHER, payload='{"id": "ada"}')
        await find_open_dead_letters(
            store, opening("d_namesake", "t_10"), payload='{"ids": ["adams", "canada", "1ada"]}'
        )
        await commit(store, DeadLetterClosed("d_0", Resolution.DISCARDED))

        assert await forget(STREAM, "ada") == (1, 2, 4, 4)

        left = {f"d_{number}" for number in range(4, 9)} | {"d_other", "d_namesake"}
        assert set((await look()).payloads) == left
        erased = await store.due_dead_letters(STREAM, NOON, 100)
        assert {each.dead_letter.dead_letter_id for each in erased} == {"d_1", "d_2", "d_3", "d_names"}
        assert {each.payload for each in erased} == {None}
        assert (await store.find_open_dead_letters(("d_1",)))[0].payload is None
        await commit(
            store, *(DeadLetterClosed(each.dead_letter.dead_letter_id, Resolution.FORGOTTEN) for each in erased)
        )
        assert await due(store) == []

    async def test_no_dead_letter_brings_back_a_payload_about_them(
        self, store: Store, look: Look, forget: Forget
    ) -> None:
        await commit(store, changes=rows_of("ada"))
        await forget(STREAM, "ada")

        await find_open_dead_letters(
            store, opening("d_1", "t_ada_0/messages"), opening("d_2", "t_9"), opening("d_3", "contact ada")
        )
        await find_open_dead_letters(store, opening("d_4", "t_new"), payload='{"senders": ["ada"]}')

        assert set((await look()).payloads) == {"d_2"}
        assert await due(store) == ["d_1", "d_3", "d_4"]

    async def test_a_newer_payload_of_an_old_dead_letter_does_not_come_back_either(
        self, store: Store, look: Look, forget: Forget
    ) -> None:
        await commit(store, changes=rows_of("ada"))
        await find_open_dead_letters(store, opening("d_1", "t_ada_0/row"))
        await forget(STREAM, "ada")

        await commit(store, changes=Changes(payloads=(DeadLetterPayload("d_1", '{"id": "t_ada_0"}'),)))

        assert (await look()).payloads == {}

    async def test_a_full_sweep_does_not_miss_a_forgotten_person(self, store: Store, forget: Forget) -> None:
        await commit(store, changes=rows_of("ada"))
        await commit(store, changes=rows_of("bob"))
        await commit(store, changes=Changes(missed=stretch()))
        assert await counts(store) == (0, 4)

        await forget(STREAM, "ada")

        assert await counts(store, stretch()) == (0, 2)


class RemediesContract(BacklogContract, DeadLettersContract, SweepNotesContract, ForgettingContract):
    """All contracts of the remedies."""
