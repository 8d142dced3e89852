"""notices: a problem is reported once, then daily, and its end once; nothing twice, even after a restart."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.builders import NETWORK, NOON, STREAM, at
from milepost.core.checkpoint import Checkpoint, Doubt, FailureStreak, OperatorPause, Run, Sweep
from milepost.core.events import Reason, Stage
from milepost.core.model import Platform, Stream, TokenHealth
from milepost.core.notices import (
    AGAIN,
    APART,
    OVER,
    SETTLE,
    TOGETHER,
    Concern,
    NewDeadLetter,
    NoticeKind,
    NoticeState,
    PeopleNotice,
    Situation,
    decide_notices,
    situation_of,
    state_at_start,
)
from milepost.core.position import Mode
from milepost.core.problems import Problem, ProblemKind

ALL = frozenset(NoticeKind)
EXPIRED = Problem(ProblemKind.API, "Session has expired", 400, 190, 463)
DENIED = Problem(ProblemKind.API, "(#10) Requires a permission", 403, 10)
OTHER = Stream(Platform.INSTAGRAM, STREAM.page_id)
SETTLED = SETTLE.total_seconds()


def stopped(stream: Stream = STREAM, since: datetime = NOON, problem: Problem = EXPIRED) -> Checkpoint:
    return Checkpoint(stream, failure_streak=FailureStreak(Reason.AUTHORIZATION, since, 1, problem))


def of_page(number: int) -> Stream:
    return Stream(Platform.MESSENGER, str(number))


class People:
    """The people who get notices, from one process after the other."""

    def __init__(self, on: frozenset[NoticeKind] = ALL) -> None:
        self.told = NoticeState()
        self.on = on
        self.notices: list[tuple[datetime, PeopleNotice]] = []

    def look(
        self,
        seconds: float,
        *checkpoints: Checkpoint,
        opened: Iterable[NewDeadLetter] = (),
        of_daemon: Concern | None = None,
    ) -> list[NoticeKind]:
        now = at(seconds)
        situation = situation_of(checkpoints, now, [of_daemon] if of_daemon is not None else [])
        self.told, notices = decide_notices(self.told, situation, opened, now, self.on)
        self.notices.extend((now, each) for each in notices)
        return [each.kind for each in notices]

    def restart(self, seconds: float, *checkpoints: Checkpoint, opened: Iterable[NewDeadLetter] = ()) -> None:
        now = at(seconds)
        self.told = state_at_start(situation_of(checkpoints, now), opened, now, now)

    @property
    def last(self) -> PeopleNotice:
        return self.notices[-1][1]


# --- streams that need somebody ---------------------------------------------------------------------------------------


def test_a_stopped_page_is_told_once_for_both_of_its_streams_and_then_that_it_is_over() -> None:
    people = People()
    assert people.look(0, stopped(), stopped(OTHER, at(3))) == []
    assert people.look(SETTLED, stopped(), stopped(OTHER, at(3))) == [NoticeKind.STOPPED]
    (concern,) = people.last.concerns
    assert (concern.subject, concern.streams, concern.since) == (STREAM.page_id, (OTHER, STREAM), NOON)
    assert people.look(600, stopped(), stopped(OTHER, at(3))) == []
    assert people.look(610, Checkpoint(STREAM), stopped(OTHER, at(3))) == [], "one of its streams is still stopped"
    assert people.look(900, Checkpoint(STREAM), Checkpoint(OTHER)) == []
    assert people.look(900 + OVER.total_seconds(), Checkpoint(STREAM), Checkpoint(OTHER)) == [NoticeKind.RECOVERED]
    assert people.look(5000, Checkpoint(STREAM), Checkpoint(OTHER)) == []


def test_the_second_stream_of_a_page_that_stops_later_for_the_same_reason_is_no_notice() -> None:
    people = People()
    people.look(0, stopped(), Checkpoint(OTHER))
    assert people.look(SETTLED, stopped(), Checkpoint(OTHER)) == [NoticeKind.STOPPED]
    assert people.look(300, stopped(), stopped(OTHER, at(290))) == []
    assert people.look(400, stopped(), stopped(OTHER, at(290))) == []


def test_many_pages_with_one_cause_are_one_notice_and_stragglers_another() -> None:
    people, pages = People(), [stopped(of_page(number)) for number in range(50)]
    people.look(0, *pages)
    assert people.look(SETTLED, *pages) == [NoticeKind.STOPPED]
    assert len(people.last.concerns) == 50
    late = [stopped(of_page(number), at(60)) for number in range(50, 53)]
    people.look(60, *pages, *late)
    assert people.look(60 + SETTLED, *pages, *late) == []
    assert people.look(SETTLED + TOGETHER.total_seconds(), *pages, *late) == [NoticeKind.STOPPED]
    assert len(people.last.concerns) == 3


def test_different_causes_are_different_notices() -> None:
    people, both = People(), [stopped(of_page(1)), stopped(of_page(2), problem=DENIED)]
    people.look(0, *both)
    assert people.look(SETTLED, *both) == [NoticeKind.STOPPED, NoticeKind.STOPPED]


def test_a_concern_lasts_since_it_was_first_seen_if_nothing_else_says_since_when() -> None:
    people = People()

    def look(seconds: float) -> list[NoticeKind]:
        return people.look(seconds, of_daemon=Concern(NoticeKind.STALLED, "", "stalled", at(seconds)))

    look(0)
    assert look(SETTLED) == [NoticeKind.STALLED]
    assert people.last.concerns[0].since == NOON
    assert look(AGAIN.total_seconds() + SETTLED) == [NoticeKind.STALLED]
    assert people.last.concerns[0].since == NOON
    people.look(100_000)
    people.look(200_000)
    look(200_100)
    assert look(200_100 + SETTLED) == [NoticeKind.STALLED]
    assert people.last.concerns[0].since == at(200_100)


def test_what_is_over_before_anybody_was_told_is_never_told() -> None:
    people = People()
    people.look(0, stopped())
    assert people.look(5, Checkpoint(STREAM)) == []
    assert people.look(500, Checkpoint(STREAM)) == []


def test_a_page_that_comes_and_goes_is_told_once_an_hour() -> None:
    people = People()
    kinds = Counter[NoticeKind]()
    for second in range(0, 3 * 3600, 5):
        is_stopped = second // 120 % 2 == 0  # two minutes each
        kinds.update(people.look(second, stopped(since=at(second // 240 * 240)) if is_stopped else Checkpoint(STREAM)))
    assert kinds == {NoticeKind.STOPPED: 3, NoticeKind.RECOVERED: 3}


def told_over_by(seconds: float) -> People:
    """Return people who got a notice of a stop at once, and by then one that it is over."""
    people = People()
    people.look(0, stopped())
    people.look(SETTLED, stopped())
    people.look(seconds - OVER.total_seconds(), Checkpoint(STREAM))
    assert people.look(seconds, Checkpoint(STREAM)) == [NoticeKind.RECOVERED]
    return people


def test_what_comes_back_within_the_hour_and_lasts_is_told_when_the_hour_is_over() -> None:
    people = told_over_by(100)
    assert people.look(200, stopped(since=at(200))) == []
    assert people.look(SETTLED + APART.total_seconds() - 1, stopped(since=at(200))) == []
    assert people.look(SETTLED + APART.total_seconds(), stopped(since=at(200))) == [NoticeKind.STOPPED]
    assert not people.last.again


def test_what_comes_back_waits_for_others_of_its_cause_as_the_first_time() -> None:
    people, hour = told_over_by(100), SETTLED + APART.total_seconds()
    back = stopped(since=at(hour - 2))
    assert people.look(hour - 2, back) == []
    assert people.look(hour + 2, back) == []
    assert people.look(hour - 2 + SETTLED, back) == [NoticeKind.STOPPED]


def test_a_clock_that_was_ahead_and_is_set_back_silences_nobody_for_as_long() -> None:
    year = 365 * 86_400
    people = People()
    people.look(year, stopped(), opened=[dead_letter(year)])
    assert people.look(year + SETTLED, stopped()) == [NoticeKind.STOPPED, NoticeKind.DEAD_LETTERS]
    assert people.look(0, stopped(), opened=[dead_letter(0)]) == []
    assert people.look(APART.total_seconds(), stopped()) == [NoticeKind.DEAD_LETTERS]
    assert people.look(AGAIN.total_seconds() + 1, stopped()) == [NoticeKind.STOPPED]


def test_a_run_that_fails_otherwise_meanwhile_is_no_recovery() -> None:
    people = People()
    people.look(0, stopped())
    people.look(SETTLED, stopped())
    failing = Checkpoint(STREAM, failure_streak=FailureStreak(Reason.RETRIES_EXHAUSTED, at(100), 1, NETWORK))
    assert people.look(100, failing) == []
    assert people.look(2000, failing) == []
    paused = replace(stopped(), operator_pause=OperatorPause(at(2100), "somebody"))
    assert people.look(3000, paused) == []
    assert people.look(4000, paused) == []
    assert people.look(5000, Checkpoint(STREAM)) == []
    assert people.look(5100, Checkpoint(STREAM)) == [NoticeKind.RECOVERED]


def test_another_cause_in_place_of_the_first_is_told_and_is_no_recovery() -> None:
    people = People()
    people.look(0, stopped())
    people.look(SETTLED, stopped())
    people.look(100, stopped(problem=DENIED))
    assert people.look(100 + SETTLED, stopped(problem=DENIED)) == [NoticeKind.STOPPED]
    people.look(200, Checkpoint(STREAM))
    assert people.look(300, Checkpoint(STREAM)) == [NoticeKind.RECOVERED]
    assert {each.subject for each in people.last.concerns} == {STREAM.page_id}


def test_a_page_that_is_removed_has_not_recovered() -> None:
    people = People()
    people.look(0, stopped(), Checkpoint(of_page(1)))
    people.look(SETTLED, stopped(), Checkpoint(of_page(1)))
    assert people.look(200, Checkpoint(of_page(1))) == []
    assert people.look(400, Checkpoint(of_page(1))) == []


def test_what_nobody_wants_to_be_told_is_not_told() -> None:
    people = People(on=frozenset({NoticeKind.RECOVERED}))
    people.look(0, stopped(), opened=[dead_letter(0)])
    assert people.look(100, stopped()) == []
    people.look(200, Checkpoint(STREAM))
    assert people.look(300, Checkpoint(STREAM)) == [], "nobody was told that it had stopped"


def test_a_list_that_leads_nowhere_is_told_and_doubt_is_no_recovery() -> None:
    nowhere = Problem(ProblemKind.CURSOR_LOOP, "the cursor was used before")
    sweep = Sweep(Mode.FULL, NOON, NOON, problem=nowhere)
    stuck = Checkpoint(STREAM, sweep=sweep, run=Run("r", NOON))
    people = People()
    people.look(0, stuck)
    assert people.look(SETTLED, stuck) == [NoticeKind.STALLED]
    assert people.look(200, Checkpoint(STREAM, doubt=Doubt(nowhere, NOON))) == []
    assert people.look(400, Checkpoint(STREAM, doubt=Doubt(nowhere, NOON))) == []


# --- again, and after a restart ---------------------------------------------------------------------------------------


def test_what_lasts_is_told_again_each_day() -> None:
    people, page = People(), stopped()
    times = [at(seconds) for seconds in range(0, 3 * 86_400, 600) if people.look(seconds, page)]
    assert [later - earlier for earlier, later in pairwise(times)] == [AGAIN, AGAIN]
    assert [each.again for _, each in people.notices] == [False, True, True]


@pytest.mark.parametrize("restarted", [11, 60, 3600, 80_000])
def test_a_restart_repeats_nothing_and_knows_what_was_told(restarted: int) -> None:
    people = People()
    people.look(0, stopped())
    people.look(SETTLED, stopped())
    people.restart(restarted, stopped())
    assert people.look(restarted, stopped()) == []
    assert people.look(restarted + 60, stopped()) == []
    people.look(restarted + 100, Checkpoint(STREAM))
    assert people.look(restarted + 200, Checkpoint(STREAM)) == [NoticeKind.RECOVERED]


def test_after_a_restart_what_lasts_is_told_again_when_its_day_is_over() -> None:
    people = People()
    people.restart(3 * 3600, stopped())
    assert people.look(86_399, stopped()) == []
    assert people.look(86_400, stopped()) == [NoticeKind.STOPPED]
    assert people.last.again


# --- tokens -----------------------------------------------------------------------------------------------------------


def with_token(days: float) -> Checkpoint:
    return Checkpoint(STREAM, token=TokenHealth(is_valid=True, expires_at=NOON + timedelta(days=days)))


def test_a_token_that_ends_is_told_at_most_once_a_day_and_its_renewal_once() -> None:
    people, ending = People(), with_token(9)
    times = [hour for hour in range(8 * 24 + 12) if people.look(hour * 3600, ending)]
    assert len(times) == 7
    assert times[0] == 49, "seven days before its end, once it is sure"
    assert min(later - earlier for earlier, later in pairwise(times)) >= 24
    renewed, hours = with_token(70), 8 * 24 + 12
    people.look(hours * 3600, renewed)
    assert people.look(hours * 3600 + 100, renewed) == [NoticeKind.RECOVERED]


def test_the_token_of_a_stopped_page_is_not_told_beside_it() -> None:
    people, ended = People(), replace(stopped(), token=TokenHealth(is_valid=False, expires_at=at(-60)))
    people.look(0, ended)
    assert people.look(SETTLED, ended) == [NoticeKind.STOPPED]


def test_a_token_that_came_close_to_its_end_while_nothing_ran_is_told_at_the_start() -> None:
    ending, now = with_token(5), at(0)
    told = state_at_start(situation_of([ending], now), [], as_of=NOON - timedelta(days=3), now=now)
    _, notices = decide_notices(told, situation_of([ending], now), [], at(SETTLED), ALL)
    assert [each.kind for each in notices] == [NoticeKind.TOKEN_EXPIRING]


# --- dead letters -----------------------------------------------------------------------------------------------------


def dead_letter(seconds: float, group: str = "a", stream: Stream = STREAM) -> NewDeadLetter:
    return NewDeadLetter(group, Stage.FETCH, "refused (code 1)", stream, at(seconds))


def test_dead_letters_of_one_reason_are_one_notice_an_hour_that_counts_them() -> None:
    people = People()
    people.look(0, opened=[dead_letter(0)] * 40)
    assert people.look(SETTLED, opened=[dead_letter(9)] * 2) == [NoticeKind.DEAD_LETTERS]
    assert [each.count for each in people.last.dead_letters] == [42]
    assert people.look(700, opened=[dead_letter(700)] * 5) == []
    assert people.look(SETTLED + APART.total_seconds()) == [NoticeKind.DEAD_LETTERS]
    assert [each.count for each in people.last.dead_letters] == [5]


def test_a_restart_within_the_hour_tells_of_no_dead_letter_twice_and_of_each_once() -> None:
    people = People()
    opened = [dead_letter(0), dead_letter(1200), dead_letter(1300)]
    people.restart(1800, opened=opened)
    assert people.look(1800) == []
    assert people.look(3600) == [NoticeKind.DEAD_LETTERS]
    assert [each.count for each in people.last.dead_letters] == [2]


def test_a_clock_that_is_set_back_delays_no_notice_of_dead_letters() -> None:
    people, hours = People(), 5 * 3600
    people.look(hours, opened=[dead_letter(hours)])
    assert people.look(1) == []
    assert people.look(1 + SETTLED) == [NoticeKind.DEAD_LETTERS]


def test_thousands_of_reasons_are_bounded() -> None:
    people = People()
    people.look(0, opened=[dead_letter(0, group=str(number)) for number in range(5000)])
    assert people.look(SETTLED) == [NoticeKind.DEAD_LETTERS]
    assert sum(each.count for each in people.last.dead_letters) == 5000
    assert len(people.told.dead_letters) <= 101


# --- whatever happens -------------------------------------------------------------------------------------------------

_STEP = 20
_states = st.lists(st.tuples(st.integers(1, 300), st.booleans(), st.booleans()), min_size=1, max_size=12)


@given(_states, st.sets(st.integers(0, 2000), max_size=3))
def test_whatever_comes_and_goes_people_are_told_rarely_in_turn_and_of_what_lasts(
    spells: Sequence[tuple[int, bool, bool]], restarts: set[int]
) -> None:
    """Spells of some steps, in which the first page is stopped, and the second."""
    people, second, since = People(), 0, [NOON, NOON]
    streams = (of_page(1), of_page(2))
    was = [False, False]
    for steps, *stops in spells:
        for index, is_stopped in enumerate(stops):
            if is_stopped and not was[index]:
                since[index] = at(second)
        was = stops
        checkpoints = [
            stopped(stream, since[index]) if stops[index] else Checkpoint(stream)
            for index, stream in enumerate(streams)
        ]
        for step in range(steps):
            if second // _STEP in restarts:
                people.restart(second, *checkpoints)
            people.look(second, *checkpoints)
            if stops[0] and not restarts and step * _STEP > (APART + SETTLE + TOGETHER).total_seconds():
                assert _last_of(people, "1") is NoticeKind.STOPPED, "what lasts is reported"
            second += _STEP
    for page in ("1", "2"):
        told = [(when, each.kind) for when, each in people.notices if page in {one.subject for one in each.concerns}]
        kinds = [kind for _, kind in told]
        stops_at = [when for when, kind in told if kind is NoticeKind.STOPPED]
        spells_told = Counter(each.since for _, notice in people.notices for each in _stops_of(notice, page))
        assert not spells_told or max(spells_told.values()) == 1, "all this takes less than a day"
        if not restarts:
            assert kinds == [(NoticeKind.STOPPED, NoticeKind.RECOVERED)[index % 2] for index in range(len(kinds))]
            assert all(later - earlier >= APART for earlier, later in pairwise(stops_at))


def _stops_of(notice: PeopleNotice, page: str) -> list[Concern]:
    return [each for each in notice.concerns if notice.kind is NoticeKind.STOPPED and each.subject == page]


def _last_of(people: People, page: str) -> NoticeKind | None:
    of_page_ = [each.kind for _, each in people.notices if page in {one.subject for one in each.concerns}]
    return of_page_[-1] if of_page_ else None


@given(st.lists(st.tuples(st.integers(0, 9000), st.sampled_from("abc")), max_size=60))
def test_every_dead_letter_is_counted_once_and_no_reason_told_twice_in_an_hour(opened: list[tuple[int, str]]) -> None:
    people = People()
    due = sorted((second, group) for second, group in opened)
    for second in range(0, 9000 + 2 * 3600, 60):
        now = [dead_letter(at_, group) for at_, group in due if second - 60 < at_ <= second]
        people.look(second, opened=now)
    counts, times = Counter[str](), dict[str, datetime]()
    for when, notice in people.notices:
        for news in notice.dead_letters:
            group = news.first.group
            counts[group] += news.count
            assert group not in times or when - times[group] >= APART
            times[group] = when
    assert counts == Counter(group for _, group in due)


@given(st.integers(0, 30 * 86_400), st.integers(1, 5 * 86_400))
def test_a_restart_at_any_moment_tells_of_a_stop_when_the_process_would_have(lasted: int, more: int) -> None:
    """One process that goes on, and one that begins after `lasted` seconds, tell the same from then on."""
    restarted = People()
    page = stopped()
    situation = situation_of([page], at(lasted))
    restarted.told = state_at_start(situation, [], at(lasted), at(lasted))
    _, notices = decide_notices(restarted.told, situation_of([page], at(lasted + more)), [], at(lasted + more), ALL)
    days = (lasted + more) // 86_400 - lasted // 86_400
    assert bool(notices) == (days > 0)


def test_nothing_is_known_of_nothing() -> None:
    told, notices = decide_notices(NoticeState(), Situation(), [], NOON, ALL)
    assert (told, notices) == (NoticeState(), ())
