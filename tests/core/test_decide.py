"""decide.decide: what an outcome means."""

import pytest
from msgspec.structs import replace

from kit.builders import (
    CODEC,
    NETWORK,
    NOON,
    RATE_LIMIT,
    STREAM,
    at,
    budget,
    catching_up,
    checkpoint_of,
    context,
    conversation,
    fetched,
    given,
    refused,
    unreadable,
    walking,
)
from kit.decisions import NEW, QUIET, decision_on, events, knowing, record, scanning, skipped
from kit.decisions import walking as walking_since_noon
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.events import (
    BatchStored,
    FetchFailed,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.core.model import Conversation, PageRow, Profile
from milepost.core.plan import Policy
from milepost.core.position import Mode, Phase, Position
from milepost.core.records import Context, Record, prepare
from milepost.core.walk import EPOCH

IN_TWOS = context(policy=Policy(batch_size=2))


def older_than(seconds: float) -> list[Conversation]:
    """Return as many conversations from before that instant as end a walk."""
    return [conversation(f"t_{number}", at(seconds - number)) for number in range(1, 11)]


class TestFirstBatch:
    def test_the_first_batch_starts_run_and_sweep_and_stores_its_rows(self) -> None:
        first = fetched(conversation("t_1"), next_cursor="after 1", asked_at=at(-2))

        decision = record(decision_on(checkpoint_of(), first, context()))

        assert decision.events == (
            RunStarted(NOON),
            SweepStarted(Mode.FULL, at(-2), at(-602)),
            BatchStored(walking("after 1", NOON, head_read_at=NOON), NEW, batch=1),
        )
        assert [row.conversation_id for row in decision.changes.conversations] == ["t_1"]

    def test_the_first_batch_of_an_incremental_sweep_records_how_far_it_walks(self) -> None:
        before = given(SweepCompleted(Mode.FULL, NOON, NOON, NEW), run_id="run-0")

        decision = decision_on(
            before,
            fetched(conversation(updated_time=at(50)), next_cursor="x", asked_at=at(60)),
            context(at(60)),
        )

        assert events(decision)[1] == SweepStarted(Mode.INCREMENTAL, at(60), at(60 - 600), at(-600))

    def test_a_single_batch_completes_the_sweep_in_one_entry(self) -> None:
        decision = decision_on(checkpoint_of(), fetched(conversation(), asked_at=at(-2)), context())

        assert events(decision) == (SweepCompleted(Mode.FULL, at(-2), NOON, NEW),)

    def test_the_first_batch_of_an_empty_inbox_completes_the_sweep(self) -> None:
        decision = decision_on(checkpoint_of(), fetched(), context())

        assert events(decision) == (SweepCompleted(Mode.FULL, EPOCH, NOON, Tally(batches=1)),)

    def test_each_recorded_batch_says_which_page_was_read(self) -> None:
        bakery = Profile("Corner Bakery", "bakery")
        row = PageRow(STREAM.platform, STREAM.page_id, "Corner Bakery", "bakery", at(9), at(9))
        for next_cursor in ("after 1", None):
            batch = fetched(conversation("t_1"), next_cursor=next_cursor)
            batch = replace(batch, batch=replace(batch.batch, page=bakery))

            assert record(decision_on(checkpoint_of(), batch, context(at(9)))).changes.page == row

    def test_a_page_alone_is_no_news(self) -> None:
        batch = fetched(conversation("t_1"), next_cursor="x")
        batch = replace(batch, batch=replace(batch.batch, page=Profile("Corner Bakery")))

        decision = decision_on(checkpoint_of(), batch, context(), knowing(conversation("t_1")))

        assert isinstance(decision, BatchUnchanged)

    def test_a_first_batch_without_news_is_skipped(self) -> None:
        known = knowing(conversation("t_1"))

        decision = decision_on(checkpoint_of(), fetched(conversation("t_1"), next_cursor="x"), context(), known)

        assert isinstance(decision, BatchUnchanged)
        assert decision.tally == QUIET
        assert decision.sweep.position == walking("x", NOON, head_read_at=NOON)

    def test_an_empty_first_batch_with_a_next_cursor_is_skipped(self) -> None:
        decision = decision_on(checkpoint_of(), fetched(next_cursor="x"), context())

        assert isinstance(decision, BatchUnchanged)
        assert decision.sweep.position == walking("x", head_read_at=NOON)


class TestWalk:
    def test_a_walk_continues_with_the_next_batch(self) -> None:
        decision = decision_on(walking_since_noon(), fetched(conversation(), next_cursor="after 2"), context())

        assert events(decision) == (BatchStored(walking("after 2", NOON), NEW, batch=2),)

    def test_a_walk_at_the_end_of_the_inbox_is_followed_by_the_catch_up_scan(self) -> None:
        decision = decision_on(walking_since_noon(), fetched(conversation()), context())

        assert events(decision) == (BatchStored(catching_up(), NEW, batch=2),)

    def test_a_walk_of_two_batches_needs_its_catch_up_scan_even_if_one_was_skipped(self) -> None:
        known = knowing(conversation("t_1"))
        before = skipped(checkpoint_of(), fetched(conversation("t_1"), next_cursor="x"), known, context())

        decision = decision_on(before, fetched(conversation("t_2")), context())

        assert events(decision)[-1] == BatchStored(catching_up(), QUIET + NEW, batch=2)

    def test_a_walk_resumed_at_its_last_batch_needs_its_catch_up_scan(self) -> None:
        position = replace(walking("after 1"), is_after_head=True)
        before = given(RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, position), after=walking_since_noon())

        decision = decision_on(before, fetched(conversation()), context(during=budget("run-2")))

        assert events(decision) == (RunStarted(NOON, Phase.WALK), BatchStored(catching_up(), NEW, batch=1))


BACK = walking_since_noon(mode=Mode.INCREMENTAL)  # to an hour before noon
FULL = walking_since_noon()
NINE_OLDER = given(BatchStored(replace(walking("after 9", at(-3601)), older=9), NEW), after=BACK)
HAD_REACHED = given(BatchStored(walking("after 1", at(-5)), NEW), after=FULL)  # five seconds before noon
ONE_OLD_ROW = [conversation("t_1", at(-3600)), conversation("t_2", at(-3601))]


class TestNextPosition:
    @pytest.mark.parametrize(
        ("before", "threads", "during", "position"),
        [
            pytest.param(BACK, older_than(-3600), context(), catching_up(), id="all older"),
            pytest.param(
                BACK, older_than(-3600)[:1], IN_TWOS, replace(walking("x", at(-3601)), older=1), id="one older of two"
            ),
            pytest.param(
                BACK, older_than(-3600)[:2], IN_TWOS, replace(walking("x", at(-3602)), older=2), id="two older of two"
            ),
            pytest.param(NINE_OLDER, older_than(-3601)[:1], IN_TWOS, catching_up(), id="ten older in several batches"),
            pytest.param(BACK, ONE_OLD_ROW, context(), replace(walking("x", at(-3601)), older=1), id="one old row"),
            pytest.param(BACK, [], context(), walking("x"), id="an empty batch"),
            pytest.param(HAD_REACHED, [], context(), walking("x", at(-5)), id="an empty batch keeps the place"),
            pytest.param(
                FULL,
                [conversation(updated_time=at(-1e8))],
                context(),
                walking("x", at(-1e8)),
                id="a full sweep goes on",
            ),
            pytest.param(
                scanning(),
                [conversation(updated_time=at(-600))],
                context(),
                catching_up("x", at(-600), head_read_at=NOON),
                id="a scan of what is newer than the start of the walk",
            ),
            pytest.param(
                scanning(), [], context(), catching_up("x", head_read_at=NOON), id="a scan goes past an empty batch"
            ),
        ],
    )
    def test_where_a_sweep_continues_after_a_batch_with_a_next_one(
        self, before: Checkpoint, threads: list[Conversation], during: Context, position: Position
    ) -> None:
        match decision_on(before, fetched(*threads, next_cursor="x"), during):
            case BatchUnchanged(sweep=sweep):
                assert not threads
                assert sweep.position == position
            case Record(events=(BatchStored() as stored,)):
                assert stored.position == position
            case other:
                pytest.fail(f"it recorded {other}")


class TestCatchUpScan:
    def test_a_catch_up_scan_ends_the_sweep_at_a_batch_wholly_older(self) -> None:
        decision = decision_on(scanning(), fetched(*older_than(-600), next_cursor="x"), context())

        tally = Tally(batches=1, inserted=10, without_contact=10)
        assert events(decision) == (SweepCompleted(Mode.FULL, NOON, NOON, tally),)

    def test_a_catch_up_scan_ends_the_sweep_at_the_end_of_the_inbox(self) -> None:
        decision = decision_on(scanning("x"), fetched(conversation()), context())

        assert events(decision) == (SweepCompleted(Mode.FULL, NOON, NOON, NEW),)


class TestEndOfASweep:
    OLD = fetched(conversation("t_1", at(-601)))

    def test_a_sweep_ends_with_errors_if_an_earlier_batch_opened_a_dead_letter(self) -> None:
        before = given(BatchStored(catching_up("x"), Tally(batches=1, dead_lettered=1)), after=scanning())

        (completed,) = events(decision_on(before, self.OLD, context()))

        assert isinstance(completed, SweepCompleted)
        assert completed.has_errors

    def test_a_sweep_ends_with_errors_if_its_last_batch_opens_a_dead_letter(self) -> None:
        *_, completed = events(decision_on(checkpoint_of(), fetched(unreadable()), context()))

        assert isinstance(completed, SweepCompleted)
        assert completed.has_errors

    def test_a_sweep_ends_without_errors_if_no_dead_letter_was_opened(self) -> None:
        (completed,) = events(decision_on(scanning(), self.OLD, context()))

        assert isinstance(completed, SweepCompleted)
        assert not completed.has_errors


class TestUnchangedBatches:
    def test_the_next_entry_counts_unchanged_batches(self) -> None:
        known = knowing(conversation("t_1"))
        before = walking_since_noon()
        for cursor in ("after 2", "after 3"):
            before = skipped(before, fetched(conversation("t_1"), next_cursor=cursor), known, context())

        decision = decision_on(before, fetched(conversation("t_2"), next_cursor="after 4"), context())

        assert events(decision) == (BatchStored(walking("after 4", NOON), QUIET + QUIET + NEW, batch=4),)

    def test_the_entry_after_unchanged_batches_records_the_start_of_their_sweep(self) -> None:
        known = knowing(conversation("t_1"))
        first = fetched(conversation("t_1"), next_cursor="after 1", asked_at=at(-2))
        before = skipped(checkpoint_of(), first, known, context())

        decision = decision_on(before, fetched(conversation("t_2"), next_cursor="after 2", asked_at=at(5)), context())

        assert events(decision) == (
            RunStarted(NOON),
            SweepStarted(Mode.FULL, at(-2), at(-602)),
            BatchStored(walking("after 2", NOON, head_read_at=NOON), QUIET + NEW, batch=2),
        )

    def test_a_sweep_of_unchanged_batches_is_one_entry(self) -> None:
        known = knowing(conversation("t_1"))
        checkpoint = checkpoint_of()
        for cursor in ("after 1", "after 2", None):  # the third batch is the last of the walk
            checkpoint = skipped(checkpoint, fetched(conversation("t_1"), next_cursor=cursor), known, context())

        decision = decision_on(checkpoint, fetched(conversation("t_1", at(-601))), context(), known)

        four = QUIET + QUIET + QUIET + QUIET
        assert events(decision) == (SweepCompleted(Mode.FULL, NOON, NOON, four),)

    def test_unchanged_batches_are_recorded_before_a_failure(self) -> None:
        known = knowing(conversation("t_1"))
        before = skipped(checkpoint_of(), fetched(conversation("t_1"), next_cursor="x"), known, context())

        decision = decision_on(before, refused(NETWORK), context())

        assert [type(event) for event in events(decision)] == [RunStarted, SweepStarted, BatchStored, FetchFailed]
        assert events(decision)[2] == BatchStored(walking("x", NOON, head_read_at=NOON), QUIET, batch=1)


class TestForcedFullSweep:
    def test_a_forced_full_sweep_replaces_the_open_incremental_one(self) -> None:
        decision = decision_on(
            walking_since_noon(mode=Mode.INCREMENTAL),
            fetched(conversation(), next_cursor="x", asked_at=at(60)),
            context(at(60), during=budget("run-2", wants_full=True)),
        )

        assert events(decision) == (
            RunStarted(NOON),
            SweepStarted(Mode.FULL, at(60), at(-540)),
            BatchStored(walking("x", NOON, head_read_at=NOON), NEW, batch=1),
        )

    def test_a_forced_full_sweep_of_one_batch_leaves_nothing_of_the_incremental_one(self) -> None:
        before = walking_since_noon(mode=Mode.INCREMENTAL)
        during = context(at(60), during=budget("run-2", wants_full=True))

        decision = decision_on(before, fetched(conversation(), asked_at=at(60)), during)

        assert events(decision) == (SweepCompleted(Mode.FULL, at(60), NOON, NEW),)
        assert given(*events(decision), after=before, run_id="run-2").sweep is None

    def test_a_refused_forced_full_sweep_leaves_the_open_one_where_it_was(self) -> None:
        before = walking_since_noon(mode=Mode.INCREMENTAL)

        decision = decision_on(before, refused(RATE_LIMIT), context(during=budget("run-2", wants_full=True)))

        assert before.sweep is not None
        old = replace(before.sweep.position, is_old=True)
        assert given(*events(decision), after=before, run_id="run-2").sweep == replace(before.sweep, position=old)


class TestPrepare:
    def test_prepare_seals_the_events_and_returns_the_projections_after_them(self) -> None:
        before = walking_since_noon()
        decision = record(decision_on(before, fetched(conversation(), next_cursor="after 2"), context()))

        commit = prepare(before, decision, "run-1", at(3), CODEC)

        assert [(entry.version, entry.run_id, entry.recorded_at) for entry in commit.entries] == [
            (before.version + 1, "run-1", at(3))
        ]
        assert commit.changes == decision.changes
        assert commit.checkpoint == given(*decision.events, after=before, recorded_at=at(3))
        assert commit.run == commit.checkpoint.run
