"""The fault plan of the simulated API. It draws faults from a seed, so that a failing test fails again.

A `FaultPlan` lists faults, each with the requests that it strikes. What strikes a request depends only on the plan's
seed, the stream and the request's number in that stream, so that streams read concurrently do not affect each other's
faults. Latencies add up, and a limit can begin together with any other fault; of the rest only the first in the plan's
order strikes.

Besides faults there are rules, which are not random: what is too heavy, how long cursors live, which threads are ill.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias

import msgspec

from milepost.core.errors import BadConfiguration
from milepost.simulator import seeded


class Share(msgspec.Struct, frozen=True):
    """Strikes this share of the requests, 0 to 1, at random."""

    share: float


class Every(msgspec.Struct, frozen=True):
    """Strikes every nth request of a stream."""

    nth: int


class First(msgspec.Struct, frozen=True):
    """Strikes the first requests of a stream."""

    count: int


When: TypeAlias = Share | Every | First


class FaultKind(StrEnum):
    """What can strike a request, by its name in `parse_faults` and in the record of requests."""

    LATENCY = "latency"
    """The response is delayed."""
    HANG = "hang"
    """No response for so long that a client should no longer wait for it."""
    LIMIT = "limit"
    """A rate limit of a random kind begins with this request, and lasts."""
    SERVICE_DOWN = "http_500"
    """HTTP 500, code 2, transient."""
    UNKNOWN_ERROR = "unknown_error"
    """HTTP 500, code 1."""
    HTML_OUTAGE = "html_502"
    """HTTP 502 with an HTML page."""
    TRUNCATED = "truncated"
    """HTTP 200 with the first half of the response."""
    EMPTY_BODY = "empty_body"
    """HTTP 200 with an empty body."""
    RESET = "reset"
    """The connection ends without a response."""
    ERROR_IN_SUCCESS = "error_200"
    """HTTP 200 with an error in the body (code 2)."""
    EMPTY_BATCH = "empty_batch"
    """An empty list with a `next` that continues at the same position; only lists are struck."""
    EQUAL_CURSORS = "equal_cursors"
    """A list whose `before` equals its `after`, which does not mean the end; only lists are struck."""
    RATE_LIMIT = "rate_limit"
    """Code 4, 613 or 80006 (at random), with `estimated_time_to_regain_access` 0 or 1."""
    DEAD_CURSOR = "dead_cursor"
    """Code 2642 or a plain 100, as if the cursor had expired; requests without `after` are spared."""
    LOOPING_CURSOR = "looping_cursor"
    """A list whose `next` leads back to the same position; requests without `after` are spared."""
    ODD_USAGE = "odd_usage"
    """An honest response whose usage headers have one of the forms that clients do not expect."""


_TIMED = (FaultKind.LATENCY, FaultKind.HANG, FaultKind.LIMIT)


class Fault(msgspec.Struct, frozen=True):
    """A fault and the requests that it strikes; `seconds` is how long a latency, a hang or a limit lasts."""

    kind: FaultKind
    when: When
    seconds: float = 0.0


class Strike(msgspec.Struct, frozen=True):
    """What strikes one request; `seed` determines the details that the fault leaves open."""

    wait_seconds: float = 0.0
    """The delay of the response."""
    fault: FaultKind | None = None
    seed: int = 0
    limit_seconds: float = 0.0
    """The duration of a rate limit that begins; 0 for none."""


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The faults and rules of a simulator; 0 turns a rule off.

    A page that is called more than `max_calls_per_second` times within a second is refused with code 613 or 80006. A
    list whose rows times (1 + nested messages) are more than `max_weight` is refused as too heavy. The shares are those
    of the ill threads, with each ailment drawn independently (see `Ailment`). Calls during a limit make it last
    `prolong_seconds` longer.
    """

    seed: int = 1
    faults: tuple[Fault, ...] = ()
    max_calls_per_second: float = 0.0
    max_weight: float = 0.0
    poison_share: float = 0.0
    spoilt_share: float = 0.0
    poison_messages_share: float = 0.0
    heavy_share: float = 0.0
    cursor_life_seconds: float = 0.0
    prolong_seconds: float = 0.0
    usage_percent: float = 5.0

    def strike(self, stream: str, number: int, *, has_cursor: bool = True) -> Strike:
        """Return what strikes a stream's request of this number, counted from 1."""
        wait_seconds = limit_seconds = 0.0
        struck: Fault | None = None
        for fault in self.faults:
            chance = seeded.share(self.seed, stream, number, fault.kind.value)
            if not _strikes(fault.when, number, chance):
                continue
            match fault.kind:
                case FaultKind.LATENCY:
                    wait_seconds += fault.seconds
                case FaultKind.LIMIT:
                    limit_seconds = fault.seconds
                case FaultKind.DEAD_CURSOR | FaultKind.LOOPING_CURSOR if not has_cursor:
                    pass
                case _:
                    struck = struck or fault
        drawn = seeded.number(self.seed, stream, number)
        if struck is None:
            return Strike(wait_seconds, None, drawn, limit_seconds)
        return Strike(wait_seconds + struck.seconds, struck.kind, drawn, limit_seconds)


def _strikes(when: When, number: int, chance: float) -> bool:
    match when:
        case Share(share):
            return chance < share
        case Every(nth):
            return number % nth == 0
        case First(count):
            return number <= count


CALM = FaultPlan()
"""Nothing goes wrong."""

_PRESETS: Mapping[str, str] = {
    "calm": "",
    # Some of every transient fault: about one request in eight fails. A hang outlasts Milepost's default timeout of 30
    # seconds.
    "rough": "latency=0.3@50ms,http_500=0.02,unknown_error=0.02,html_502=0.02,truncated=0.02,empty_body=0.01,"
    "reset=0.02,hang=0.002@35s,empty_batch=0.02,equal_cursors=0.02,error_200=0.01,rate_limit=0.005",
    # Rough, and every fault that takes more than retries. 420 is the weight of 20 threads with 20 messages each.
    "hostile": "rough,limit=0.005@5s,dead_cursor=0.005,looping_cursor=0.005,odd_usage=0.05,"
    "heavy=420,poison=0.005,spoilt=0.005,poison_messages=0.005,heavy_threads=0.005,cursor_life=15m",
}

FAULT_NAMES = tuple(map(str, FaultKind))
"""The faults that `parse_faults` accepts."""

_NUMBERS: Mapping[str, tuple[str, float]] = {
    "pace": ("max_calls_per_second", 100_000),
    "heavy": ("max_weight", 100_000),
    "poison": ("poison_share", 1),
    "spoilt": ("spoilt_share", 1),
    "poison_messages": ("poison_messages_share", 1),
    "heavy_threads": ("heavy_share", 1),
    "usage": ("usage_percent", 1000),
}
_DURATIONS: Mapping[str, str] = {"cursor_life": "cursor_life_seconds", "prolong": "prolong_seconds"}

RULE_NAMES = (*_NUMBERS, *_DURATIONS)
"""The rules that `parse_faults` accepts."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS_OF = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_faults(text: str, seed: int = 1) -> FaultPlan:
    """Parse a fault plan.

    Items are separated by commas: a preset (`calm`, `rough`, `hostile`), or `name=when`, which replaces the preset's
    fault of that name. `when` is a share of the requests (`0.05`), every nth (`1/20`) or the first few (`first:3`).
    `latency`, `hang` and `limit` take a duration, alone (`latency=50ms`: always) or after an at sign (`hang=0.01@35s`).
    A rule takes a number or a duration: `pace=2` refuses a page that is called more than twice a second.

    Raises:
        BadConfiguration: an item is invalid; the hint has what is allowed.
    """
    plan = CALM
    faults: dict[FaultKind, Fault] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = item.partition("=")
        if not sign and name in _PRESETS:
            plan = parse_faults(_PRESETS[name])
            faults |= {fault.kind: fault for fault in plan.faults}
        elif name in _NUMBERS:
            field, most = _NUMBERS[name]
            plan = msgspec.structs.replace(plan, **{field: _number(item, value, most)})
        elif name in _DURATIONS:
            plan = msgspec.structs.replace(plan, **{_DURATIONS[name]: _seconds(item, value)})
        else:
            fault = _fault(item, name, value)
            faults[fault.kind] = fault
    return msgspec.structs.replace(plan, seed=seed, faults=tuple(faults.values()))


def _fault(item: str, name: str, value: str) -> Fault:
    if name not in FAULT_NAMES:
        allowed = ", ".join((*_PRESETS, *FAULT_NAMES, *RULE_NAMES))
        raise BadConfiguration(f"unknown fault in {item!r}", hint=f"known are {allowed}")
    kind = FaultKind(name)
    if kind not in _TIMED:
        return Fault(kind, _when(item, value))
    when, at_sign, duration = value.rpartition("@")
    return Fault(kind, _when(item, when) if at_sign else Share(1.0), _seconds(item, duration))


def _when(item: str, text: str) -> When:
    kind, sign, count = text.replace("1/", "every:", 1).partition(":")
    if sign and kind in ("every", "first") and count.isdigit() and int(count) > 0:
        return Every(int(count)) if kind == "every" else First(int(count))
    return Share(_number(item, text, most=1))


def _number(item: str, text: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise BadConfiguration(
            f"cannot read {text!r} in the fault {item!r}",
            hint=f"write a number from 0 to {most:g}, or for a fault also 1/20 (every 20th request) or first:3",
        )
    return number


def _seconds(item: str, text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise BadConfiguration(f"no duration in the fault {item!r}", hint="write one like 50ms, 2s or 0.01@35s")
    return float(found[1]) * _SECONDS_OF[found[2]]
