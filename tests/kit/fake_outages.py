"""Temporary failures of the API: limits, outages, and tokens and settings that a person has to repair."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from msgspec.structs import replace

from milepost.core.model import Stream
from milepost.core.problems import Problem, ProblemKind, Scope

PAGE_LIMITS = (
    Problem(ProblemKind.API, "too many calls", http_status=400, code=613),
    Problem(ProblemKind.API, "too many calls to this page", http_status=403, code=80001, is_transient=False),
    Problem(ProblemKind.INVALID_RESPONSE, "slow down", http_status=429),
    Problem(ProblemKind.API, "blocked for policy", http_status=400, code=368),
)
APP_LIMIT = Problem(ProblemKind.API, "application request limit reached", http_status=403, code=4)
OUTAGES = (
    Problem(ProblemKind.NETWORK, "connection reset"),
    Problem(ProblemKind.TIMEOUT, "no answer"),
    Problem(ProblemKind.INVALID_RESPONSE, "a page of HTML", http_status=502),
    Problem(ProblemKind.API, "service down", http_status=500, code=2, is_transient=True),
    Problem(ProblemKind.API, "the object is gone, it says", http_status=400, code=100, subcode=33),
)
UNKNOWN = Problem(ProblemKind.API, "an unknown error", http_status=500, code=1)
STOPS = (
    Problem(ProblemKind.API, "the token has expired", http_status=400, code=190, subcode=463),
    Problem(ProblemKind.API, "a permission is missing", http_status=403, code=10),
    Problem(ProblemKind.API, "an unknown version", http_status=400, code=2635),
    Problem(ProblemKind.API, "an invalid parameter", http_status=400, code=100),
    Problem(ProblemKind.MISCONFIGURED, "the answer is of another page"),
)


@dataclass(frozen=True)
class Climate:
    """How often a stream is affected, per step, and for how long at most."""

    limit_chance: float = 0.0
    outage_chance: float = 0.0
    stop_chance: float = 0.0
    longest_seconds: float = 300.0
    with_unknown_errors: bool = False


@dataclass(frozen=True)
class Spell:
    """One failure of a stream, or of all that share its page or app."""

    scope: Scope
    stream: Stream
    until: datetime
    problem: Problem

    def concerns(self, stream: Stream) -> bool:
        match self.scope:
            case Scope.APP:
                return True
            case Scope.PAGE:
                return self.stream.page_id == stream.page_id
            case Scope.STREAM:
                return self.stream == stream


class Outages:
    """All failures that are in effect."""

    def __init__(self, random: Random, climate: Climate) -> None:
        self._random = random
        self._climate = climate
        self._spells: list[Spell] = []

    def clear(self) -> None:
        """End all failures for good."""
        self._climate = Climate()
        self._spells = []

    def stir(self, stream: Stream, now: datetime) -> None:
        """Perhaps begin a failure of the stream."""
        climate, random = self._climate, self._random
        until = now + timedelta(seconds=random.random() * climate.longest_seconds)
        if random.random() < climate.limit_chance:
            self._spells.append(self._limit(stream, now, until))
        if random.random() < climate.outage_chance:
            outages = (*OUTAGES, UNKNOWN) if climate.with_unknown_errors else OUTAGES
            self._spells.append(Spell(Scope.STREAM, stream, until, random.choice(outages)))
        if random.random() < climate.stop_chance:
            self._spells.append(Spell(Scope.STREAM, stream, until, random.choice(STOPS)))

    def _limit(self, stream: Stream, now: datetime, until: datetime) -> Spell:
        """Begin a rate limit. The wait that it names is right, too short, or missing."""
        left_seconds = (until - now).total_seconds()
        named = self._random.choice((None, left_seconds, left_seconds / 3))
        if self._random.random() < 0.3:
            return Spell(Scope.APP, stream, until, replace(APP_LIMIT, wait_seconds=named))
        problem = self._random.choice(PAGE_LIMITS)
        return Spell(Scope.PAGE, stream, until, replace(problem, wait_seconds=named))

    def refusal(self, stream: Stream, now: datetime) -> Problem | None:
        """Return the problem with which a call of the stream is refused; None if it is answered."""
        self._spells = [spell for spell in self._spells if spell.until > now]
        return next((spell.problem for spell in self._spells if spell.concerns(stream)), None)
