"""The fault plan of the simulated API: data, drawn from a seed, so that a failing test fails again.

A `FaultPlan` lists faults, each with the requests that it strikes. What strikes a request depends only on the plan's
seed, the stream and the request's number in that stream, so that streams read concurrently do not affect each other's
faults. Latencies add up, and a limit begins beside any other fault; of the rest the first in the plan's order strikes.

Beside faults there are rules, which are not random: what is too heavy, how long cursors live, which threads are ill.
"""

import re
from collections.abc import Mapping

import msgspec

from milepost.core.errors import BadConfiguration
from milepost.simulator import seeded
from milepost.simulator.strikes import (
    ConnectionReset,
    DeadCursor,
    EmptyBatch,
    EmptyBody,
    EqualCursors,
    ErrorInSuccess,
    Every,
    Fault,
    First,
    Hang,
    HtmlOutage,
    Latency,
    LimitBegins,
    LoopingCursor,
    OddUsage,
    RateLimited,
    Refusing,
    ServiceDown,
    Share,
    Strike,
    TruncatedJson,
    UnknownError,
    When,
    name_of,
)


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The faults and rules of a simulator; 0 turns a rule off.

    A page that is called more than `max_calls_per_second` times within a second is refused with code 613 or 80006. A
    list whose rows times (1 + nested messages) are more than `max_weight` is refused as too heavy. The shares are those
    of the threads that are ill, each ailment drawn by itself (see `Ailment`). Calling on during a limit makes it last
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
        latency_seconds = limit_seconds = 0.0
        struck: Refusing | None = None
        for fault in self.faults:
            chance = seeded.share(self.seed, stream, number, name_of(fault))
            if not _strikes(fault.when, number, chance):
                continue
            match fault:
                case Latency():
                    latency_seconds += fault.seconds
                case LimitBegins():
                    limit_seconds = fault.seconds
                case DeadCursor() | LoopingCursor() if not has_cursor:
                    pass
                case _:
                    struck = struck or fault
        return Strike(latency_seconds, struck, seeded.number(self.seed, stream, number), limit_seconds)


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

ROUGH = FaultPlan(
    faults=(
        Latency(Share(0.3), 0.05),
        ServiceDown(Share(0.02)),
        UnknownError(Share(0.02)),
        HtmlOutage(Share(0.02)),
        TruncatedJson(Share(0.02)),
        EmptyBody(Share(0.01)),
        ConnectionReset(Share(0.02)),
        Hang(Share(0.002), 35.0),
        EmptyBatch(Share(0.02)),
        EqualCursors(Share(0.02)),
        ErrorInSuccess(Share(0.01)),
        RateLimited(Share(0.005)),
    )
)
"""Some of every transient fault: about one request in eight fails. A hang outlasts Milepost's default timeout of 30
seconds."""

HOSTILE = FaultPlan(
    faults=(
        *ROUGH.faults,
        LimitBegins(Share(0.005), 5.0),
        DeadCursor(Share(0.005)),
        LoopingCursor(Share(0.005)),
        OddUsage(Share(0.05)),
    ),
    max_weight=420,
    poison_share=0.005,
    spoilt_share=0.005,
    poison_messages_share=0.005,
    heavy_share=0.005,
    cursor_life_seconds=900.0,
)
"""Rough, and every fault that takes more than retries. 420 is the weight of 20 threads with 20 messages each."""

_PRESETS: Mapping[str, FaultPlan] = {"calm": CALM, "rough": ROUGH, "hostile": HOSTILE}

_PLAIN_FAULTS = (
    ServiceDown,
    UnknownError,
    HtmlOutage,
    TruncatedJson,
    EmptyBody,
    ConnectionReset,
    ErrorInSuccess,
    EmptyBatch,
    EqualCursors,
    RateLimited,
    DeadCursor,
    LoopingCursor,
    OddUsage,
)
_TIMED_FAULTS = (Latency, Hang, LimitBegins)

FAULT_NAMES = tuple(str(kind.__struct_config__.tag) for kind in (*_TIMED_FAULTS, *_PLAIN_FAULTS))
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

_ALWAYS = Share(1.0)
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
    faults: dict[type[Fault], Fault] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = item.partition("=")
        if not sign and name in _PRESETS:
            plan = _PRESETS[name]
            faults |= {type(fault): fault for fault in plan.faults}
        elif name in _NUMBERS:
            field, most = _NUMBERS[name]
            plan = msgspec.structs.replace(plan, **{field: _number(item, value, most)})
        elif name in _DURATIONS:
            plan = msgspec.structs.replace(plan, **{_DURATIONS[name]: _seconds(item, value)})
        else:
            fault = _fault(item, name, value)
            faults[type(fault)] = fault
    return msgspec.structs.replace(plan, seed=seed, faults=tuple(faults.values()))


def _fault(item: str, name: str, value: str) -> Fault:
    for plain in _PLAIN_FAULTS:
        if plain.__struct_config__.tag == name:
            return plain(_when(item, value))
    for timed in _TIMED_FAULTS:
        if timed.__struct_config__.tag == name:
            when, at_sign, duration = value.rpartition("@")
            return timed(_when(item, when) if at_sign else _ALWAYS, _seconds(item, duration))
    allowed = ", ".join((*_PRESETS, *FAULT_NAMES, *RULE_NAMES))
    raise BadConfiguration(f"unknown fault in {item!r}", hint=f"known are {allowed}")


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
