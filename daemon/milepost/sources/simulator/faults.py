"""What goes wrong in the simulated API, and when: data, drawn from a seed, so that a failing test fails again.

A `FaultPlan` lists faults. Each says at which requests it strikes, by a `When`; `strike` names what strikes a request,
which depends on nothing but the plan's seed, the stream that is asked for and the request's number in that stream, so
that streams which are read at once do not change each other's luck. Latencies add up; of the others the first in the
plan's order strikes.

To add a fault: write its struct (the tag is its name), add it to `Refusing` and to `_PLAIN_FAULTS` or `_TIMED_FAULTS`;
the type checker then names the place that must say what it does.
"""

import re
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from milepost.core.errors import BadConfiguration
from milepost.sources.simulator import luck


class Share(msgspec.Struct, frozen=True):
    """At this share of the requests, 0 to 1, at random."""

    share: float


class Every(msgspec.Struct, frozen=True):
    """At every nth request of a stream."""

    nth: int


class First(msgspec.Struct, frozen=True):
    """At the first requests of a stream."""

    count: int


When: TypeAlias = Share | Every | First


class Latency(msgspec.Struct, frozen=True, tag="latency"):
    """The answer comes later, by this long."""

    when: When
    seconds: float


class Hang(msgspec.Struct, frozen=True, tag="hang"):
    """No answer comes for this long; to be of use it is longer than the client's timeout."""

    when: When
    seconds: float


class ServiceDown(msgspec.Struct, frozen=True, tag="http_500"):
    """HTTP 500, code 2, transient."""

    when: When


class UnknownError(msgspec.Struct, frozen=True, tag="unknown_error"):
    """HTTP 500, code 1."""

    when: When


class HtmlOutage(msgspec.Struct, frozen=True, tag="html_502"):
    """HTTP 502 with a page of HTML."""

    when: When


class TruncatedJson(msgspec.Struct, frozen=True, tag="truncated"):
    """HTTP 200 with the first half of the answer."""

    when: When


class ConnectionReset(msgspec.Struct, frozen=True, tag="reset"):
    """The connection ends without an answer."""

    when: When


class ErrorInSuccess(msgspec.Struct, frozen=True, tag="error_200"):
    """HTTP 200 with an error for a body (code 2)."""

    when: When


class EmptyBatch(msgspec.Struct, frozen=True, tag="empty_batch"):
    """An empty list that has a `next` and goes on where it was asked; answers other than lists are spared."""

    when: When


class EqualCursors(msgspec.Struct, frozen=True, tag="equal_cursors"):
    """A list whose `before` equals its `after`, which does not mean the end; answers other than lists are spared."""

    when: When


class RateLimited(msgspec.Struct, frozen=True, tag="rate_limit"):
    """Code 4, 613 or 80006 (whichever the luck of the request says), with `estimated_time_to_regain_access` 0 or 1."""

    when: When


Refusing: TypeAlias = (
    Hang
    | ServiceDown
    | UnknownError
    | HtmlOutage
    | TruncatedJson
    | ConnectionReset
    | ErrorInSuccess
    | EmptyBatch
    | EqualCursors
    | RateLimited
)
Fault: TypeAlias = Latency | Refusing


class Strike(msgspec.Struct, frozen=True):
    """What strikes one request; `luck` settles what the fault leaves open."""

    latency_seconds: float = 0.0
    fault: Refusing | None = None
    luck: int = 0

    @property
    def wait_seconds(self) -> float:
        """How long the answer is held back."""
        return self.latency_seconds + (self.fault.seconds if isinstance(self.fault, Hang) else 0.0)


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The faults of a simulator, and the pace that it allows.

    A page that is called more than `max_calls_per_second` times within a second is refused with code 613 or 80006; 0
    allows any pace.
    """

    seed: int = 1
    faults: tuple[Fault, ...] = ()
    max_calls_per_second: float = 0.0

    def strike(self, stream: str, number: int) -> Strike:
        """What strikes a stream's request of this number, counted from 1."""
        latency_seconds = 0.0
        struck: Refusing | None = None
        for fault in self.faults:
            chance = luck.share(self.seed, stream, number, name_of(fault))
            if not _strikes(fault.when, number, chance):
                continue
            if isinstance(fault, Latency):
                latency_seconds += fault.seconds
            elif struck is None:
                struck = fault
        return Strike(latency_seconds, struck, luck.number(self.seed, stream, number))


def name_of(fault: Fault) -> str:
    """The name under which `parse_faults` knows it, and the simulator's record of requests."""
    return str(fault.__struct_config__.tag)


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
        ConnectionReset(Share(0.02)),
        Hang(Share(0.002), 35.0),
        EmptyBatch(Share(0.02)),
        EqualCursors(Share(0.02)),
        ErrorInSuccess(Share(0.01)),
        RateLimited(Share(0.005)),
    )
)
"""A bit of everything: about one request in nine fails. A hang outlasts Milepost's default timeout of 30 seconds."""

_PRESETS: Mapping[str, FaultPlan] = {"calm": CALM, "rough": ROUGH}

_PLAIN_FAULTS = (
    ServiceDown,
    UnknownError,
    HtmlOutage,
    TruncatedJson,
    ConnectionReset,
    ErrorInSuccess,
    EmptyBatch,
    EqualCursors,
    RateLimited,
)
_TIMED_FAULTS = (Latency, Hang)

FAULT_NAMES = tuple(str(kind.__struct_config__.tag) for kind in (*_TIMED_FAULTS, *_PLAIN_FAULTS))
"""What `parse_faults` knows, beside the presets and `pace`."""

_ALWAYS = Share(1.0)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
_SECONDS_OF = {"ms": 0.001, "s": 1.0, "m": 60.0}


def parse_faults(text: str, seed: int = 1) -> FaultPlan:
    """Read a fault plan as a person writes it.

    Items are divided by commas: a preset (`calm`, `rough`), or `name=when`, which replaces what the preset says of that
    name. `when` is a share of the requests (`0.05`), every nth (`1/20`) or the first few (`first:3`).
    `latency` and `hang` take a duration, alone (`latency=50ms`: always) or after an at sign (`hang=0.01@35s`).
    `pace=2` refuses a page that is called more than twice a second.

    Raises:
        BadConfiguration: with the item that cannot be read, and what is allowed.
    """
    faults: dict[type[Fault], Fault] = {}
    pace = 0.0
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = item.partition("=")
        if not sign and name in _PRESETS:
            faults |= {type(fault): fault for fault in _PRESETS[name].faults}
        elif name == "pace":
            pace = _number(item, value, most=100_000)
        else:
            fault = _fault(item, name, value)
            faults[type(fault)] = fault
    return FaultPlan(seed=seed, faults=tuple(faults.values()), max_calls_per_second=pace)


def _fault(item: str, name: str, value: str) -> Fault:
    for plain in _PLAIN_FAULTS:
        if plain.__struct_config__.tag == name:
            return plain(_when(item, value))
    for timed in _TIMED_FAULTS:
        if timed.__struct_config__.tag == name:
            when, at_sign, duration = value.rpartition("@")
            return timed(_when(item, when) if at_sign else _ALWAYS, _seconds(item, duration))
    allowed = ", ".join((*_PRESETS, *FAULT_NAMES, "pace"))
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
