"""Decides which notices go to people: when something needs a person, each day while it lasts, and when it is over.

A decision depends only on the current situation and on which notices went out when, so it is the same in every worker.
After a restart the journal shows which notices went out, as if no process had ended meanwhile.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.doubts import doubt_about, trouble_under_way
from milepost.core.events import Reason, Stage
from milepost.core.model import Stream
from milepost.core.problems import Problem

SETTLE = timedelta(seconds=10)  # streams that stop together are one notice
OVER = timedelta(seconds=20)  # a concern must be gone this long before the notice that it is over: some come and go
APART = timedelta(hours=1)  # between two notices of a concern that was over in between, or of one group's dead letters
TOGETHER = timedelta(minutes=15)  # between two notices of one cause: concerns that come meanwhile share one notice
AGAIN = timedelta(days=1)  # between two notices of a concern that lasts
TOKEN_ENDS_SOON = timedelta(days=7)
MAX_GROUPS = 100  # of dead letters that are kept apart


class NoticeKind(StrEnum):
    """What a notice is about; the words of `notify.on`."""

    STOPPED = "stopped"  # a stream needs a person
    TOKEN_EXPIRING = "token_expiring"  # a token ends within days  # noqa: S105  # a word, no token
    DEAD_LETTERS = "dead_letters"  # there are new ones
    STALLED = "stalled"  # copying has stopped, or does not work as it should
    RECOVERED = "recovered"  # the concern of an earlier notice is over


Key = tuple[NoticeKind, str, str]
"""Kind, subject and cause of a concern."""


class Concern(Struct, frozen=True):
    """Something that needs a person, since then: `subject` is a page's id, or empty for the daemon as a whole.

    Concerns of one kind and `cause` make one notice.
    """

    kind: NoticeKind
    subject: str
    cause: str
    since: datetime
    streams: tuple[Stream, ...] = ()
    problem: Problem | None = None
    ends_at: datetime | None = None  # of a token

    @property
    def key(self) -> "Key":
        """The kind, subject and cause."""
        return self.kind, self.subject, self.cause

    @property
    def first_due_at(self) -> datetime:
        """When its first notice was due, as the journal shows it."""
        return self.since if self.ends_at is None else self.ends_at - TOKEN_ENDS_SOON


class Situation(Struct, frozen=True):
    """What needs a person now.

    Concerns of an `undecided` kind and subject may or may not be over. A subject that is not `known` was removed.
    """

    concerns: tuple[Concern, ...] = ()
    undecided: frozenset[tuple[NoticeKind, str]] = frozenset()
    known: frozenset[str] = frozenset()


class NewDeadLetter(Struct, frozen=True):
    """A dead letter was opened. Those of one `group` have the same stage and, ignoring ids, the same reason."""

    group: str
    stage: Stage
    reason: str
    stream: Stream
    opened_at: datetime


class DeadLetterNews(Struct, frozen=True):
    """How many dead letters of one reason have not been in a notice; `first` is one of them."""

    first: NewDeadLetter
    count: int
    streams: frozenset[Stream]


class PeopleNotice(Struct, frozen=True):
    """A notice to people about concerns or new dead letters. It is `again` if it only repeats earlier notices."""

    kind: NoticeKind
    concerns: tuple[Concern, ...] = ()
    dead_letters: tuple[DeadLetterNews, ...] = ()
    again: bool = False


class Watched(Struct, frozen=True):
    """A concern as it was last seen, and since when it has been seen without a break.

    `notified_at` is when its last notice went out, and `over_since` since when it has been over. It `is_closed` after
    the notice that it is over, and stays so if it comes back, until people are notified again.
    """

    concern: Concern
    seen_at: datetime
    notified_at: datetime | None = None
    over_since: datetime | None = None
    is_closed: bool = False


class DeadLetterWatch(Struct, frozen=True):
    """When the last notice about dead letters of one reason went out, and those that came since."""

    notified_at: datetime | None = None
    news: DeadLetterNews | None = None


class NoticeState(Struct, frozen=True):
    """The state between two decisions: which notices went out, and which may have to.

    `causes` has the causes of the last minutes' notices, with the times.
    """

    watched: Mapping[Key, Watched] = {}
    dead_letters: Mapping[str, DeadLetterWatch] = {}
    causes: Mapping[tuple[NoticeKind, str], datetime] = {}


# --- what needs a person ----------------------------------------------------------------------------------------------


def situation_of(checkpoints: Iterable[Checkpoint], now: datetime, of_daemon: Iterable[Concern] = ()) -> Situation:
    """Return what needs a person: about the streams, from their checkpoints, and about the daemon as a whole."""
    found = {each.key: each for each in of_daemon}
    undecided, known = set[tuple[NoticeKind, str]](), {""}
    for checkpoint in checkpoints:
        known.add(checkpoint.stream.page_id)
        undecided.update((kind, checkpoint.stream.page_id) for kind in _undecided(checkpoint))
        for concern in _concerns_of(checkpoint, now):
            before = found.get(concern.key)
            found[concern.key] = concern if before is None else _joined(before, concern)
    return Situation(tuple(found.values()), frozenset(undecided), frozenset(known))


def _concerns_of(checkpoint: Checkpoint, now: datetime) -> Iterator[Concern]:
    stream, streak, token = checkpoint.stream, checkpoint.failure_streak, checkpoint.token
    if token is not None and token.ends_at is not None and token.ends_at - now <= TOKEN_ENDS_SOON:
        yield Concern(NoticeKind.TOKEN_EXPIRING, stream.page_id, "token", now, (stream,), ends_at=token.ends_at)
    if checkpoint.operator_pause is not None:
        return
    if streak is not None and streak.reason in {Reason.AUTHORIZATION, Reason.CONFIGURATION}:
        cause = f"{streak.reason}/{_numbers_of(streak.problem)}"
        yield Concern(NoticeKind.STOPPED, stream.page_id, cause, streak.since, (stream,), streak.problem)
    elif (problem := trouble_under_way(checkpoint)) is not None:
        since = checkpoint.run.started_at if checkpoint.run is not None else now
        yield Concern(NoticeKind.STALLED, stream.page_id, _numbers_of(problem), since, (stream,), problem)


def _undecided(checkpoint: Checkpoint) -> Iterator[NoticeKind]:
    """Yield the kinds of concerns that may go on unseen: a stream that now fails for another reason is no better."""
    is_failing = checkpoint.failure_streak is not None or checkpoint.operator_pause is not None
    if is_failing:
        yield NoticeKind.STOPPED
    if is_failing or doubt_about(checkpoint) is not None:
        yield NoticeKind.STALLED
    if checkpoint.token is not None and not checkpoint.token.is_valid:
        yield NoticeKind.TOKEN_EXPIRING


def _numbers_of(problem: Problem | None) -> str:
    """Return the numbers that identify a problem; its message may name ids and times."""
    return "" if problem is None else f"{problem.kind}/{problem.code}/{problem.subcode}"


def _joined(one: Concern, other: Concern) -> Concern:
    """Return one concern of a page for both of its streams."""
    streams = tuple(sorted({*one.streams, *other.streams}, key=lambda stream: stream.key))
    return replace(min(one, other, key=lambda each: each.first_due_at), streams=streams)


# --- notices ----------------------------------------------------------------------------------------------------------


def state_at_start(
    situation: Situation, opened: Iterable[NewDeadLetter], as_of: datetime, now: datetime
) -> NoticeState:
    """Return which notices went out before this process began, judged by the journal.

    `as_of` is the time of its last entry, and `opened` are the dead letters of the last hour, oldest first.
    """
    watched = {each.key: Watched(each, now, _no_later(now, _last_notified(each, as_of))) for each in situation.concerns}
    dead_letters: dict[str, DeadLetterWatch] = {}
    for each in opened:
        before = dead_letters.get(each.group)
        if before is None or before.notified_at is None or each.opened_at - before.notified_at >= APART:
            dead_letters[each.group] = DeadLetterWatch(each.opened_at)
        else:
            dead_letters[each.group] = replace(before, news=_more(before.news, each))
    return NoticeState(watched, dead_letters)


def _last_notified(concern: Concern, as_of: datetime) -> datetime | None:
    """Return when the last notice until `as_of` went out. The first goes out when the concern comes, then one a day."""
    lasted = as_of - concern.first_due_at
    return None if lasted < timedelta(0) else concern.first_due_at + AGAIN * (lasted // AGAIN)


def decide_notices(
    state: NoticeState,
    situation: Situation,
    opened: Iterable[NewDeadLetter],
    now: datetime,
    on: Collection[NoticeKind],
    settle: timedelta = SETTLE,
) -> tuple[NoticeState, tuple[PeopleNotice, ...]]:
    """Return the next state, and the notices that are due now.

    `opened` are the dead letters since the last decision, `on` are the kinds that people want, and `settle` is how long
    a new concern waits for others to share its notice.
    """
    state = replace(
        state,
        watched=dict(_seen(state.watched, situation, now)),
        dead_letters=_noted(state.dead_letters, opened, now),
        causes={cause: min(at, now) for cause, at in state.causes.items() if now - at < TOGETHER},
    )
    state, concerns = _of_concerns(state, now, on, settle)
    state, dead_letters = _of_dead_letters(state, now, on, settle)
    state, ends = _of_ends(state, now, on)
    return state, (*concerns, *dead_letters, *ends)


def _seen(watched: Mapping[Key, Watched], situation: Situation, now: datetime) -> Iterator[tuple[Key, Watched]]:
    """Yield the watched concerns, updated by the situation. A concern that was over before its notice is dropped."""
    present = {each.key: each for each in situation.concerns}
    watched = {key: _by_the_clock(each, now) for key, each in watched.items()}
    for concern in situation.concerns:
        before = watched.get(concern.key, Watched(concern, now))
        is_back = before.is_closed and before.over_since is not None
        seen_at = now if is_back else before.seen_at
        # Where nothing says since when, it begins anew at each look.
        since = concern.since if before.over_since is not None else min(concern.since, before.concern.since)
        yield concern.key, replace(before, concern=replace(concern, since=since), seen_at=seen_at, over_since=None)
    lasting = situation.undecided | {(each.kind, each.subject) for each in situation.concerns}
    for key, before in watched.items():
        kind, subject, _ = key
        if key in present or before.notified_at is None or subject not in situation.known:
            continue
        if before.is_closed and now - before.notified_at >= APART:
            continue
        is_over = before.is_closed or (kind, subject) not in lasting
        yield key, replace(before, over_since=before.over_since or now if is_over else None)


def _by_the_clock(watched: Watched, now: datetime) -> Watched:
    """Replace instants in the future, from a clock that was ahead, by now."""
    over_since, notified_at = _no_later(now, watched.over_since), _no_later(now, watched.notified_at)
    return replace(watched, seen_at=min(watched.seen_at, now), notified_at=notified_at, over_since=over_since)


def _no_later(now: datetime, at: datetime | None) -> datetime | None:
    return None if at is None else min(at, now)


def _of_concerns(
    state: NoticeState, now: datetime, on: Collection[NoticeKind], settle: timedelta
) -> tuple[NoticeState, list[PeopleNotice]]:
    """Return notices about the due concerns, one for each cause."""
    stopped = {
        subject
        for (kind, subject, _), each in state.watched.items()
        if kind is NoticeKind.STOPPED and each.over_since is None
    }
    due: dict[tuple[NoticeKind, str], list[Watched]] = {}
    for (kind, subject, cause), each in state.watched.items():
        is_said_already = kind is NoticeKind.TOKEN_EXPIRING and subject in stopped
        if kind in on and not is_said_already and _is_due(each, now, settle) and (kind, cause) not in state.causes:
            due.setdefault((kind, cause), []).append(each)
    notices = [
        PeopleNotice(kind, tuple(each.concern for each in group), again=all(map(_is_known, group)))
        for (kind, _), group in due.items()
    ]
    notified = {
        each.concern.key: replace(each, notified_at=now, is_closed=False) for group in due.values() for each in group
    }
    causes = {**state.causes, **dict.fromkeys(due, now)}
    return replace(state, watched={**state.watched, **notified}, causes=causes), notices


def _is_known(watched: Watched) -> bool:
    return watched.notified_at is not None and not watched.is_closed


def _is_due(watched: Watched, now: datetime, settle: timedelta) -> bool:
    if watched.over_since is not None:
        return False
    if watched.notified_at is not None:
        pause = APART if watched.is_closed else AGAIN
        if now - watched.notified_at < pause:
            return False
    return _is_known(watched) or now - watched.seen_at >= settle


def _of_ends(state: NoticeState, now: datetime, on: Collection[NoticeKind]) -> tuple[NoticeState, list[PeopleNotice]]:
    """Return a notice of all concerns that are over, once one has been over for long enough."""
    over = [each for each in state.watched.values() if each.over_since is not None and not each.is_closed]
    if not any(now - each.over_since >= OVER for each in over if each.over_since is not None):
        return state, []
    closed = {each.concern.key: replace(each, is_closed=True) for each in over}
    state = replace(state, watched={**state.watched, **closed})
    concerns = tuple(each.concern for each in over)
    return state, [PeopleNotice(NoticeKind.RECOVERED, concerns)] if NoticeKind.RECOVERED in on else []


# --- dead letters -----------------------------------------------------------------------------------------------------


def _noted(
    watches: Mapping[str, DeadLetterWatch], opened: Iterable[NewDeadLetter], now: datetime
) -> dict[str, DeadLetterWatch]:
    """Return the watches with the new dead letters, and without the ones that are no longer needed."""
    noted = {
        group: DeadLetterWatch(_no_later(now, each.notified_at), _opened_by(now, each.news))
        for group, each in watches.items()
        if each.news is not None or (each.notified_at is not None and now - each.notified_at < APART)
    }
    for each in opened:
        group = each.group if each.group in noted or len(noted) < MAX_GROUPS else ""
        before = noted.get(group, DeadLetterWatch())
        noted[group] = replace(before, news=_more(before.news, replace(each, opened_at=min(each.opened_at, now))))
    return noted


def _opened_by(now: datetime, news: DeadLetterNews | None) -> DeadLetterNews | None:
    """Return news whose first dead letter was opened by now: a clock was ahead if it was opened in the future."""
    if news is None or news.first.opened_at <= now:
        return news
    return replace(news, first=replace(news.first, opened_at=now))


def _more(news: DeadLetterNews | None, new: NewDeadLetter) -> DeadLetterNews:
    if news is None:
        return DeadLetterNews(new, 1, frozenset({new.stream}))
    return replace(news, count=news.count + 1, streams=news.streams | {new.stream})


def _of_dead_letters(
    state: NoticeState, now: datetime, on: Collection[NoticeKind], settle: timedelta
) -> tuple[NoticeState, list[PeopleNotice]]:
    """Return one notice about all new dead letters that are due."""
    if NoticeKind.DEAD_LETTERS not in on:
        return replace(state, dead_letters={}), []
    due = {
        group: each.news
        for group, each in state.dead_letters.items()
        if each.news is not None
        and now - each.news.first.opened_at >= settle
        and (each.notified_at is None or now - each.notified_at >= APART)
    }
    if not due:
        return state, []
    watches = {**state.dead_letters, **dict.fromkeys(due, DeadLetterWatch(now))}
    return replace(state, dead_letters=watches), [
        PeopleNotice(NoticeKind.DEAD_LETTERS, dead_letters=tuple(due.values()))
    ]
