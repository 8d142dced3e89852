"""Doubts about lists that lead nowhere, end falsely, are empty or unordered; and none about good, similar ones."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.builders import at, conversation, unreadable
from kit.list_worlds import ListWorld, aged, ended, listed, named_on_every_face, newest_first, problem_of
from kit.needs import long_only
from milepost.core.doubts import AGREES_AFTER, HANDFUL, MAX_EMPTY, MAX_RUNS, MAX_STALE, doubt_about, order_violations
from milepost.core.events import CursorLost, Reason, RunStatus, SweepCompleted
from milepost.core.model import Batch, Conversation
from milepost.core.plan import Policy
from milepost.core.ports import Request
from milepost.core.position import Mode
from milepost.core.problems import Problem, ProblemKind

DAY = timedelta(days=1)
THREADS = [aged(number) for number in range(45)]


def kind_of_doubt(world: ListWorld) -> ProblemKind | None:
    problem = doubt_about(world.checkpoint)
    return problem.kind if problem is not None else None


def completed(world: ListWorld) -> list[SweepCompleted]:
    return [entry.event for entry in world.entries if isinstance(entry.event, SweepCompleted)]


def run_until_complete(world: ListWorld, *, max_batches: int = 500, runs: int = 400) -> int:
    """Run until a sweep is complete. Returns how many runs it took."""
    before = len(completed(world))
    for number in range(runs):
        world.run(max_batches=max_batches)
        if len(completed(world)) > before:
            return number + 1
    raise AssertionError("no sweep was ever complete")


# --- what goes on without end -----------------------------------------------------------------------------------------


def empty_tail(threads: Sequence[Conversation]) -> Callable[[Request], Batch]:
    """Answer with empty batches behind the last thread, each with a cursor of its own."""

    def answer(request: Request) -> Batch:
        start = int(request.cursor or 0)
        batch = listed(threads, request)
        return replace(batch, next_cursor=str(start + request.limit)) if batch.next_cursor is None else batch

    return answer


def last_page_for_ever(threads: Sequence[Conversation]) -> Callable[[Request], Batch]:
    """Answer with the last page again, however far an offset is behind the end."""

    def answer(request: Request) -> Batch:
        start = int(request.cursor or 0)
        batch = listed(threads, replace(request, cursor=str(min(start, len(threads) - request.limit))))
        return replace(batch, next_cursor=str(start + request.limit))

    return answer


def coming_round(threads: Sequence[Conversation], first: int, period: int) -> Callable[[Request], Batch]:
    """Answer with the pages `first` to `first + period - 1` again and again, once they were reached."""

    def answer(request: Request) -> Batch:
        page = int(request.cursor or 0)
        following = page + 1 if page + 1 < first + period else first
        rows = threads[page * request.limit : (page + 1) * request.limit]
        return Batch(tuple(rows), str(following))

    return answer


ENDLESS = {
    "empty batches": empty_tail(THREADS),
    "the last page again and again": last_page_for_ever(THREADS),
    "nothing but empty batches": empty_tail([]),
} | {f"cursors of period {period}": coming_round(THREADS, 1, period) for period in (1, 2, 3, 7)}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_walk_that_gets_nowhere_is_reported_and_ends(name: str) -> None:
    world = ListWorld(ENDLESS[name])

    run_until_complete(world, runs=6)

    (sweep,) = completed(world)
    assert sweep.problem is not None
    assert sweep.problem.kind in {ProblemKind.NO_PROGRESS, ProblemKind.CURSOR_LOOP}
    assert kind_of_doubt(world) is sweep.problem.kind
    assert world.checkpoint.run is not None
    assert world.checkpoint.run.status is RunStatus.COMPLETE_WITH_ERRORS
    assert any(str(sweep.problem) in sentence for sentence in world.warnings())


@pytest.mark.parametrize("max_batches", [2, 3, 20])
@pytest.mark.parametrize("name", ENDLESS)
def test_a_walk_that_gets_nowhere_is_reported_after_three_runs_however_short_they_are(
    name: str, max_batches: int
) -> None:
    world = ListWorld(ENDLESS[name])
    while world.run(max_batches=max_batches).futile_runs == 0 and not completed(world):
        pass

    for _ in range(MAX_RUNS):
        world.run(max_batches=max_batches)

    assert kind_of_doubt(world) in {ProblemKind.NO_PROGRESS, ProblemKind.CURSOR_LOOP}
    assert world.warnings()


@pytest.mark.parametrize("name", ENDLESS)
def test_incremental_sweeps_go_on_and_another_full_one_is_due_in_a_day(name: str) -> None:
    answer = ENDLESS[name]
    world = ListWorld(answer)
    run_until_complete(world, runs=6)
    new = conversation("t_new", world.now + timedelta(seconds=1))

    def with_new(request: Request) -> Batch:
        batch = answer(request)
        return batch if request.cursor else replace(batch, conversations=(new, *batch.conversations))

    world.answer = with_new

    for _ in range(4):
        world.run()
    assert "t_new" in world.stored
    assert completed(world)[-1].mode is Mode.INCREMENTAL or name == "nothing but empty batches"

    world.answer = lambda request: listed([new, *THREADS], request)
    world.run(after=DAY + timedelta(hours=1))

    assert completed(world)[-1].mode is Mode.FULL
    assert doubt_about(world.checkpoint) is None
    assert world.deleted == set()


def test_a_sweep_whose_end_is_assumed_deletes_nothing() -> None:
    world = ListWorld(lambda request: listed(THREADS, request))
    world.run()
    world.answer = empty_tail(THREADS[:42])

    world.run(full=True)
    run_until_complete(world)

    assert completed(world)[-1].problem is not None
    assert world.deleted == set()


def test_a_walk_starts_over_once_and_not_at_each_run() -> None:
    world = ListWorld(ENDLESS["cursors of period 3"])

    run_until_complete(world)

    assert [entry.event.is_last for entry in world.entries if isinstance(entry.event, CursorLost)] == [True]


@settings(max_examples=50, deadline=None)
@drawn(st.integers(0, 40), st.integers(1, 60))
def test_cursors_that_come_round_are_found_with_any_period(first: int, period: int) -> None:
    threads = [aged(number) for number in range(first + period)]
    world = ListWorld(coming_round(threads, first, period), Policy(batch_size=1, attempts=1))

    world.run()

    assert len(world.asked) < 12 * (first + period + 2)
    assert any(isinstance(entry.event, CursorLost) for entry in world.entries)


# --- what only looks as if it did -------------------------------------------------------------------------------------


def quiet(world: ListWorld) -> bool:
    """Whether nothing was reported, and every sweep is complete and trusted."""
    is_told = doubt_about(world.checkpoint) is not None or world.warnings()
    return not is_told and world.checkpoint.sweep is None and completed(world)[-1].problem is None


@pytest.mark.parametrize("max_batches", [3, 500])
def test_thirty_empty_batches_may_have_others_behind_them(max_batches: int) -> None:
    def answer(request: Request) -> Batch:
        shown, empties = map(int, (request.cursor or "0/0").split("/"))
        if shown >= 20 and empties < 30:
            return Batch((), f"{shown}/{empties + 1}")
        batch = listed(THREADS, replace(request, cursor=str(shown)))
        return replace(batch, next_cursor=batch.next_cursor and f"{batch.next_cursor}/0")

    world = ListWorld(answer)
    run_until_complete(world, max_batches=max_batches)

    assert world.stored == {each.conversation_id for each in THREADS}
    assert completed(world)[-1].problem is None
    assert doubt_about(world.checkpoint) is None


@pytest.mark.parametrize("again", [1, 5, 9])
def test_pages_may_repeat_rows_of_the_one_before(again: int) -> None:
    def answer(request: Request) -> Batch:
        start = max(0, int(request.cursor or 0) - again)
        rows = THREADS[start : start + request.limit]
        end = start + len(rows)
        return Batch(tuple(rows), str(end) if end < len(THREADS) else None)

    world = ListWorld(answer)
    for full in (False, True, False):
        world.run(full=full)

    assert world.stored == {each.conversation_id for each in THREADS}
    assert quiet(world)


@pytest.mark.parametrize("size", [1, 3, 10])
@pytest.mark.parametrize("max_batches", [7, 500])
def test_many_threads_may_share_a_second(size: int, max_batches: int) -> None:
    threads = newest_first([aged(number, 5000 if 10 <= number < 210 else 5005 - number) for number in range(220)])
    world = ListWorld(lambda request: listed(threads, request), Policy(batch_size=size))
    run_until_complete(world)

    world.run(full=True, max_batches=max_batches)
    run_until_complete(world, max_batches=max_batches)

    assert world.deleted == set()
    assert completed(world)[-1].problem is None


def test_a_quiet_sweep_of_a_large_inbox_makes_progress_all_the_time() -> None:
    threads = [aged(number) for number in range(MAX_STALE + 2000)]
    world = ListWorld(lambda request: listed(threads, request), Policy(batch_size=200))
    world.run()
    before = world.checkpoint.version

    world.run(full=True)

    assert world.checkpoint.version == before + 1, "a quiet sweep is one entry"
    assert quiet(world)


def test_a_quiet_sweep_over_many_short_runs_is_never_in_trouble() -> None:
    world = ListWorld(lambda request: listed(THREADS, request), Policy(batch_size=1))
    world.run()

    world.run(full=True, max_batches=3)
    run_until_complete(world, max_batches=3)

    assert all(event.problem is None for event in ended(world.entries))
    assert quiet(world)


# --- what ends too soon -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_next", [False, True], ids=["an end", "empty batches without end"])
def test_an_old_cursor_that_is_answered_with_nothing_is_not_believed(with_next: bool) -> None:
    threads = [aged(number) for number in range(120)]
    world = ListWorld(lambda request: listed(threads, request))
    world.run(max_batches=3)
    dead = {world.checkpoint.sweep.position.cursor if world.checkpoint.sweep else None}

    def answer(request: Request) -> Batch:
        if request.cursor in dead or (request.cursor or "").startswith("dead"):
            return Batch((), f"dead {len(world.asked)}" if with_next else None)
        return listed(threads, request)

    world.answer = answer
    run_until_complete(world)

    assert len(world.stored) == 120
    assert completed(world)[-1].problem is None
    assert any("starts over" in sentence or "restarts" in sentence for sentence in world.warnings())


def test_an_end_that_is_empty_for_each_old_cursor_is_finally_accepted_and_reported() -> None:
    """A platform may give a cursor behind which nothing ever was."""
    threads = [aged(number) for number in range(20)]

    def answer(request: Request) -> Batch:
        batch = listed(threads, request)
        return replace(batch, next_cursor="20") if batch.conversations and batch.next_cursor is None else batch

    world = ListWorld(answer)
    world.run(max_batches=2)
    run_until_complete(world, max_batches=2, runs=12)

    assert completed(world)[-1].problem is not None
    assert len(world.stored) == 20


def test_an_empty_batch_at_the_end_of_a_walk_within_a_run_is_its_end() -> None:
    def answer(request: Request) -> Batch:
        batch = listed(THREADS, request)
        return replace(batch, next_cursor="90") if batch.conversations and batch.next_cursor is None else batch

    world = ListWorld(answer)
    for full in (False, True, False):
        world.run(full=full)

    assert quiet(world)


# --- what is empty, or misses most ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3, 45])
def test_an_empty_inbox_never_deletes_anything_and_is_reported(number: int) -> None:
    world = ListWorld(lambda request: listed(THREADS[:number], request))
    world.run()
    world.answer = lambda request: Batch((), None)

    world.run()
    assert kind_of_doubt(world) is ProblemKind.EMPTY_INBOX
    for _ in range(3):
        world.run(full=True, after=2 * DAY)

    assert world.deleted == set()
    assert kind_of_doubt(world) is ProblemKind.EMPTY_INBOX
    assert world.warnings()

    world.answer = lambda request: listed(THREADS[:number], request)
    world.run()
    assert doubt_about(world.checkpoint) is None


def test_an_inbox_that_is_empty_all_at_once_is_asked_again_before_a_sweep_ends() -> None:
    world = ListWorld(lambda request: listed(THREADS, request))
    empty = [2]

    def answer(request: Request) -> Batch:
        if request.cursor is None and len(world.asked) > 1 and empty[0]:  # the first batch of the scan
            empty[0] -= 1
            return Batch((), None)
        return listed(THREADS, request)

    world.answer = answer
    world.run()
    assert completed(world)[-1].problem is None

    empty[0] = 100
    world.run(full=True)
    assert completed(world)[-1].problem is not None
    assert world.deleted == set()


@pytest.mark.parametrize("code", [2642, 100])
@pytest.mark.parametrize(("batch_size", "batches"), [(1, 2), (2, 3), (10, 2), (19, 1), (20, 1)])
def test_a_dead_cursor_that_comes_again_after_the_restart_is_got_round(
    code: int, batch_size: int, batches: int
) -> None:
    """It is no more than the last conversation of its batch, and stays dead."""
    world = ListWorld(lambda request: listed(THREADS, request), Policy(batch_size=batch_size))
    world.run(max_batches=batches)
    dead = str(batch_size * batches)
    refused = Problem(ProblemKind.API, "invalid cursors values", code=code)
    world.answer = lambda request: refused if request.cursor == dead else listed(THREADS, request)

    for _ in range(3):
        world.run()

    assert world.stored == {each.conversation_id for each in THREADS}
    assert completed(world)[-1].problem is None


def test_a_list_that_begins_at_its_head_again_and_ends_there_is_not_believed_to_end() -> None:
    world = ListWorld(lambda request: listed(THREADS, request))
    world.run(max_batches=2)
    head = Batch(tuple(THREADS[:10]), None)
    world.answer = lambda request: head if request.cursor == "20" else listed(THREADS, request)

    for _ in range(2):
        world.run()

    assert world.stored == {each.conversation_id for each in THREADS}


def test_a_last_batch_of_a_list_without_an_order_is_its_end() -> None:
    mixed = [*THREADS[1:20:2], *THREADS[0:20:2], *THREADS[21:], THREADS[20]]
    world = ListWorld(lambda request: listed(mixed, request))
    world.run(max_batches=4)

    world.run()

    assert not any(isinstance(entry.event, CursorLost) for entry in world.entries)


def test_an_inbox_of_unreadable_rows_that_is_empty_once_its_cursor_is_lost_is_doubted() -> None:
    world = ListWorld(lambda request: listed(THREADS[:3], request))
    world.run()

    def answer(request: Request) -> Batch | Problem:
        match len(world.asked):
            case 1:
                return Batch((), "10", (unreadable("t_bad"),))
            case 2:
                return Problem(ProblemKind.API, "invalid cursors values", code=2642)
            case _:
                return Batch((), None)

    world.answer = answer
    world.run(full=True)

    assert any(isinstance(entry.event, CursorLost) for entry in world.entries)
    assert completed(world)[-1].mode is Mode.FULL
    assert completed(world)[-1].has_errors
    assert kind_of_doubt(world) is ProblemKind.EMPTY_INBOX


def test_an_empty_inbox_of_which_nothing_is_stored_is_plausible() -> None:
    world = ListWorld(lambda request: Batch((), None))
    for full in (False, True, False):
        world.run(full=full)

    assert quiet(world)


def test_a_sweep_that_misses_most_conversations_deletes_nothing_and_is_reported() -> None:
    world = ListWorld(lambda request: listed(THREADS, request))
    world.run()
    world.answer = lambda request: listed(THREADS[:15], request)

    for _ in range(2):
        world.run(full=True)

    assert world.deleted == set()
    assert kind_of_doubt(world) is ProblemKind.MOST_MISSING
    assert completed(world)[-1].has_errors


def test_a_sweep_that_misses_most_is_believed_if_another_one_agrees_after_a_day() -> None:
    world = ListWorld(lambda request: listed(THREADS, request))
    world.run()
    world.answer = lambda request: listed(THREADS[:15], request)
    world.run(full=True)
    world.run()

    world.run(after=AGREES_AFTER + timedelta(hours=1))

    assert completed(world)[-1].mode is Mode.FULL, "it is not put off for a week"
    assert len(world.deleted) == 30
    assert doubt_about(world.checkpoint) is None


def test_a_sweep_that_finds_the_missed_conversations_again_settles_the_doubt() -> None:
    world = ListWorld(lambda request: listed(THREADS, request))
    world.run()
    world.answer = lambda request: listed(THREADS[:15], request)
    world.run(full=True)
    world.answer = lambda request: listed(THREADS, request)
    world.run(full=True)
    world.answer = lambda request: listed(THREADS[:15], request)

    world.run(full=True, after=2 * DAY)

    assert world.deleted == set(), "the second opinion was another one"


@pytest.mark.parametrize(("stored", "gone"), [(45, 3), (3, 2), (HANDFUL + 1, HANDFUL), (45, 20)])
def test_threads_that_are_really_gone_are_marked_at_once(stored: int, gone: int) -> None:
    world = ListWorld(lambda request: listed(THREADS[:stored], request))
    world.run()
    world.answer = lambda request: listed(THREADS[gone:stored], request)

    world.run(full=True)

    assert world.deleted == {each.conversation_id for each in THREADS[:gone]}
    assert quiet(world)


# --- what has no order ------------------------------------------------------------------------------------------------


def shuffled(number: int) -> list[Conversation]:
    """Return threads in an order of their own, such as that of their ids."""
    random = Random(number)  # noqa: S311  (no secret)
    return [aged(each, 3600 + random.randrange(36_000)) for each in range(number)]


def sawtooth(number: int) -> list[Conversation]:
    """Return threads that are in order over stretches of sixteen, as where a list is sorted by something else first."""
    return [aged(each, 3600 + 60 * ((each * 37) % 600)) for each in range(number)]


@pytest.mark.parametrize("size", [10, 20, 50])
def test_what_is_new_is_found_where_the_list_is_in_order_for_a_while(size: int) -> None:
    threads = sawtooth(120)
    world = ListWorld(lambda request: listed(threads, request), Policy(batch_size=size))
    world.run()
    threads[100] = replace(threads[100], updated_time=world.now)

    world.run()

    assert world.store.conversations["t_0100"].updated_time == threads[100].updated_time


def test_new_threads_in_a_list_without_an_order_are_found_and_the_order_is_reported() -> None:
    threads = shuffled(120)
    world = ListWorld(lambda request: listed(threads, request))
    world.run()
    assert kind_of_doubt(world) is ProblemKind.OUT_OF_ORDER
    threads[100] = replace(threads[100], updated_time=world.now)

    world.run()

    assert world.store.conversations["t_0100"].updated_time == threads[100].updated_time
    assert world.deleted == set()
    assert world.warnings()


def test_a_list_that_loses_its_order_is_walked_to_its_end_by_an_incremental_sweep() -> None:
    threads = [aged(number) for number in range(120)]
    world = ListWorld(lambda request: listed(threads, request))
    world.run()
    threads = shuffled(120)
    threads[100] = replace(threads[100], updated_time=world.now)

    world.run()

    assert completed(world)[-1].mode is Mode.INCREMENTAL
    assert world.store.conversations["t_0100"].updated_time == threads[100].updated_time
    assert kind_of_doubt(world) is ProblemKind.OUT_OF_ORDER


def test_a_list_whose_order_comes_back_is_trusted_again() -> None:
    threads = shuffled(60)
    world = ListWorld(lambda request: listed(threads, request))
    world.run()
    threads = newest_first(threads)

    world.run()
    world.run()

    assert [event.mode for event in completed(world)[-2:]] == [Mode.FULL, Mode.INCREMENTAL]
    assert doubt_about(world.checkpoint) is None


def test_a_thread_out_of_place_makes_no_sweep_a_full_one() -> None:
    threads = [aged(number) for number in range(300)]
    world = ListWorld(lambda request: listed(threads, request), Policy(batch_size=50))
    world.run()
    threads[0], threads[1] = threads[1], threads[0]

    world.run()

    assert len(world.asked) == 1
    assert doubt_about(world.checkpoint) is None


# --- worlds of all kinds ----------------------------------------------------------------------------------------------

TROUBLES = {RunStatus.FAILED, RunStatus.STOPPED}


@st.composite
def random_answers(draw: st.DrawFn) -> Callable[[Request], Batch | Problem]:
    """Draw a list as a graph of pages: each has some rows, and leads to any page, to a new one, nowhere, or fails."""
    pages = draw(st.lists(st.lists(st.integers(0, 60), max_size=6), min_size=1, max_size=8))
    leads_to = [draw(st.integers(0, len(pages)) | st.sampled_from(("end", "fresh", "fails"))) for _ in pages]
    fresh = [0]

    def answer(request: Request) -> Batch | Problem:
        page = int((request.cursor or "0").partition("/")[0]) % (len(pages) + 1)
        rows = tuple(aged(number) for number in pages[page]) if page < len(pages) else ()
        following = leads_to[page] if page < len(pages) else "fresh"
        fresh[0] += 1
        match following:
            case "fails":
                return Problem(ProblemKind.NETWORK, "connection reset")
            case "end":
                return Batch(rows, None)
            case "fresh":
                return Batch(rows, f"{page}/{fresh[0]}")
            case _:
                return Batch(rows, f"{following}")

    return answer


def nothing_is_futile_in_silence(answer: Callable[[Request], Batch | Problem], max_batches: int) -> None:
    world = ListWorld(answer, Policy(batch_size=5))
    idle, warned = 0, 0
    for _ in range(30):
        before = state_of_reading(world)
        checkpoint = world.run(max_batches=max_batches)
        has_moved = state_of_reading(world) != before
        idle, warned = (0, len(world.warnings())) if has_moved else (idle + 1, warned)
        if idle >= MAX_RUNS:
            assert checkpoint.run is not None
            assert doubt_about(checkpoint) is not None or checkpoint.run.status in TROUBLES, "it has no name"
            assert named_on_every_face(world), "status or metrics do not tell"
            assert len(world.warnings()) > warned, "no warning"


@pytest.mark.parametrize("examples", [8, *long_only(150)])
def test_no_world_makes_a_stream_get_nowhere_in_silence(examples: int) -> None:
    worlds = drawn(random_answers(), st.sampled_from((1, 2, 3, 10, 500)))
    settings(max_examples=examples, deadline=None)(worlds(nothing_is_futile_in_silence))()


def state_of_reading(world: ListWorld) -> tuple[object, ...]:
    """Return what changes when a new row is read, or one that the sweep had not read, or a sweep is complete."""
    sweep = world.checkpoint.sweep
    phase = sweep.position.phase if sweep is not None and sweep.problem is None else None
    return len(world.stored), len(completed(world)), sweep.lowest if sweep is not None else None, phase


def test_runs_in_a_row_that_read_nothing_new_end_with_a_problem() -> None:
    world = ListWorld(empty_tail(THREADS))
    for _ in range(12):
        world.run(max_batches=2)
    problem = problem_of(world.checkpoint)

    assert problem is not None
    assert problem.kind is ProblemKind.NO_PROGRESS
    assert ended(world.entries)[-1].reason is Reason.BATCH_LIMIT
    assert MAX_EMPTY > 30


class TestOrder:
    @pytest.mark.parametrize(
        ("seconds", "violations"), [((9, 8, 7), 0), ((9, 9, 9), 0), ((9, 7, 8), 1), ((7, 8, 9), 2), ((), 0)]
    )
    def test_order_violations_are_counted(self, seconds: tuple[int, ...], violations: int) -> None:
        assert order_violations([at(second) for second in seconds]) == violations

    @pytest.mark.parametrize(("before", "violations"), [(10, 0), (9, 0), (8, 1)])
    def test_order_violations_are_counted_across_batches(self, before: float, violations: int) -> None:
        assert order_violations([at(9), at(7)], at(before)) == violations
        assert order_violations([], at(before)) == 0
