"""Notices to people in words: what needs them and what to do, without secrets, names or texts of messages.

The API's own error texts are left out, because they may quote anything; its error codes can be looked up.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import assert_never

from msgspec import Struct

from milepost.core.events import Stage
from milepost.core.notices import Concern, DeadLetterNews, NoticeKind, PeopleNotice
from milepost.core.problems import Problem, ProblemKind
from milepost.reporting.advice import RENEW, advice_on
from milepost.reporting.health import Issue, IssueKind
from milepost.reporting.humanize import ago, ahead, clock, counted, in_words

MAX_NAMED = 12
MAX_ADVICE = 3
STORE_AWAY_AFTER = timedelta(minutes=5)  # most outages of a database are over by then
_STALLED = (IssueKind.STORE_AWAY, IssueKind.STALLED, IssueKind.RUNS_FAIL)
_WHAT = {
    IssueKind.STORE_AWAY: "the database is unavailable, so that nothing is copied",
    IssueKind.STALLED: "runs do not end, and hold up others",
    IssueKind.RUNS_FAIL: "runs fail one after the other",
}
_TO_DO = {
    IssueKind.STORE_AWAY: "see `milepost status` for the reason; Milepost goes on by itself when the database is back",
    IssueKind.RUNS_FAIL: "see `milepost status` for the reason; they are tried again within a quarter of an hour",
    IssueKind.STALLED: "see the log for what they wait for; if that does not help, restart Milepost: its place is kept",
}
_NUMBERS = re.compile(r"\(((?:HTTP|code|subcode) [0-9]{1,9}(?:, (?:HTTP|code|subcode) [0-9]{1,9})*)\)")


class NoticeText(Struct, frozen=True):
    """A notice as it is sent."""

    kind: NoticeKind
    title: str
    body: str


def concerns_of_daemon(issues: Iterable[Issue], now: datetime) -> Iterator[Concern]:
    """Yield the issues of the daemon as a whole that need a person."""
    for issue in issues:
        since = issue.since or now
        is_short = issue.kind is IssueKind.STORE_AWAY and now - since < STORE_AWAY_AFTER
        if issue.kind in _STALLED and not is_short:
            yield Concern(NoticeKind.STALLED, "", issue.kind, since)


def is_of_this_process(notice: PeopleNotice) -> bool:
    """Return whether no other worker knows of it: its own runs do not end, or fail."""
    return any(each.cause in (IssueKind.STALLED, IssueKind.RUNS_FAIL) for each in notice.concerns)


def notice_in_words(notice: PeopleNotice, now: datetime) -> NoticeText:
    """Return the text of a notice."""
    match notice.kind:
        case NoticeKind.STOPPED:
            title, lines = _stopped(notice, now)
        case NoticeKind.TOKEN_EXPIRING:
            title, lines = _token(notice.concerns, now)
        case NoticeKind.DEAD_LETTERS:
            title, lines = _dead_letters(notice.dead_letters)
        case NoticeKind.STALLED:
            title, lines = _stalled(notice, now)
        case NoticeKind.RECOVERED:
            title, lines = _recovered(notice.concerns)
        case unknown:
            assert_never(unknown)
    return NoticeText(notice.kind, f"Milepost: {title}", "\n".join(lines))


def trial_notice() -> NoticeText:
    """Return the text that `milepost notify test` sends."""
    return NoticeText(NoticeKind.RECOVERED, "Milepost: test", "This is a test: notices of this Milepost arrive here.")


def _stopped(notice: PeopleNotice, now: datetime) -> tuple[str, list[str]]:
    concerns = notice.concerns
    still = "still stopped" if notice.again else "stopped"
    title = f"{_pages(concerns)} {_are(concerns)} {still}"
    since = min(each.since for each in concerns)
    problem = concerns[0].problem
    why = f" Why: {_problem_in_words(problem)}." if problem is not None else ""
    what = f"Nothing has been copied from {_streams(concerns)} since {clock(since, now)} ({ago(since, now)}).{why}"
    return title, [what, *_advice(concerns), "Nothing is lost: the streams continue from their place when it is done."]


def _token(concerns: Sequence[Concern], now: datetime) -> tuple[str, list[str]]:
    title = f"{'the token' if len(concerns) == 1 else 'tokens'} of {_pages(concerns)} will end"
    lines = [
        f"The token of page {each.subject} ends at {clock(each.ends_at, now)} ({ahead(each.ends_at, now)})."
        for each in concerns[:MAX_NAMED]
        if each.ends_at is not None
    ]
    pages = _named([each.subject for each in concerns], "page")
    return title, [*lines, f"What to do: {RENEW.format(page=pages.removeprefix('page '))}."]


def _dead_letters(news: Sequence[DeadLetterNews]) -> tuple[str, list[str]]:
    count = sum(each.count for each in news)
    lines = [
        f"{counted(each.count, 'dead letter')} in {_named(sorted(stream.key for stream in each.streams), 'stream')}: "
        f"{_STAGES[each.first.stage]}{_numbers_in(each.first.reason)}."
        for each in news[:MAX_NAMED]
    ]
    if len(news) > MAX_NAMED:
        lines.append(f"There are {len(news) - MAX_NAMED} more reasons.")
    how = "What to do: `milepost dead-letters list` shows them; they are kept, and retried for four days."
    return f"{counted(count, 'new dead letter')}", [*lines, how]


_STAGES = {
    Stage.FETCH: "it could not be read",
    Stage.STORE: "the database refused a row",
    Stage.EVENTS: "the database refused messages",
}


def _stalled(notice: PeopleNotice, now: datetime) -> tuple[str, list[str]]:
    first, still = notice.concerns[0], "still " if notice.again else ""
    if first.subject:
        problem = "" if first.problem is None else f" Why: {_problem_in_words(first.problem)}."
        what = f"{_streams(notice.concerns)} read nothing new, run after run.{problem}"
        title = f"{_pages(notice.concerns)} {_are(notice.concerns)} {still}getting nowhere"
        return title, [what, *_advice(notice.concerns)]
    kind = IssueKind(first.cause)
    what = f"Since {clock(first.since, now)} ({ago(first.since, now)}) {_WHAT[kind]}."
    return f"{still}stalled", [what, f"What to do: {_TO_DO[kind]}."]


def _recovered(concerns: Sequence[Concern]) -> tuple[str, list[str]]:
    lines = list(dict.fromkeys(map(_over, concerns)))
    return "recovered", lines[:MAX_NAMED] + (
        [f"There are {len(lines) - MAX_NAMED} more."] if len(lines) > MAX_NAMED else []
    )


def _over(concern: Concern) -> str:
    match concern:
        case Concern(kind=NoticeKind.TOKEN_EXPIRING):
            return f"The token of page {concern.subject} was renewed."
        case Concern(subject="", cause=IssueKind.STORE_AWAY):
            return "The database is available again."
        case Concern(subject="", cause=IssueKind.RUNS_FAIL):
            return "Runs succeed again."
        case Concern(subject=""):
            return "Runs end again."
        case _:
            return f"{_streams([concern])} {_are(concern.streams)} copied again."


# --- parts of sentences -----------------------------------------------------------------------------------------------


def _pages(concerns: Sequence[Concern]) -> str:
    return _named([each.subject for each in concerns], "page") if len(concerns) == 1 else counted(len(concerns), "page")


def _are(several: Sequence[object]) -> str:
    return "is" if len(several) == 1 else "are"


def _streams(concerns: Iterable[Concern]) -> str:
    return _named([stream.key for each in concerns for stream in each.streams], "stream")


def _named(names: Sequence[str], noun: str) -> str:
    """Return `page 1`, `pages 1, 2`, or `pages 1, 2 and 10 more`."""
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return f"{noun if len(names) == 1 else f'{noun}s'} {', '.join(names[:MAX_NAMED])}{more}"


def _advice(concerns: Iterable[Concern]) -> list[str]:
    """Return what to do: for each page, as long as there are few."""
    found = [advice_on(each.problem, each.streams[0]) for each in concerns if each.problem is not None and each.streams]
    different = list(dict.fromkeys(found)) or ["`milepost status` says more"]
    more = [f"Likewise for {counted(len(different) - MAX_ADVICE, 'more page')}."] if len(different) > MAX_ADVICE else []
    return [*(f"What to do: {each}." for each in different[:MAX_ADVICE]), *more]


def _problem_in_words(problem: Problem) -> str:
    """Return what went wrong, without the API's text."""
    numbers = _numbers_in(str(problem)).strip(" ()")
    what = "the API refuses the calls" if problem.kind is ProblemKind.API else in_words(problem.kind)
    return f"{what} ({numbers})" if numbers else what


def _numbers_in(reason: str) -> str:
    """Return the error codes at the end of a reason. The rest is left out: it may quote a message."""
    found: list[str] = _NUMBERS.findall(reason)
    return f" ({found[-1]})" if found else ""
