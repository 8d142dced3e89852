"""What can strike one request of the simulated API, and at which requests.

To add a fault: write its struct (the tag is its name), add it to `Refusing` and to the kinds that `faults` can read;
the type checker then names the place that must say what it does.
"""

from typing import TypeAlias

import msgspec


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


class EmptyBody(msgspec.Struct, frozen=True, tag="empty_body"):
    """HTTP 200 with nothing."""

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


class DeadCursor(msgspec.Struct, frozen=True, tag="dead_cursor"):
    """Code 2642 or a plain 100, as if the cursor had died; requests without `after` are spared."""

    when: When


class LoopingCursor(msgspec.Struct, frozen=True, tag="looping_cursor"):
    """A list that has a `next`, which leads to where it was asked; requests without `after` are spared."""

    when: When


class OddUsage(msgspec.Struct, frozen=True, tag="odd_usage"):
    """An honest answer whose usage headers are written in one of the ways that clients do not expect."""

    when: When


class LimitBegins(msgspec.Struct, frozen=True, tag="limit"):
    """A rate limit begins with this request and lasts for this long; which one it is, the luck of the request says."""

    when: When
    seconds: float


Refusing: TypeAlias = (
    Hang
    | ServiceDown
    | UnknownError
    | HtmlOutage
    | TruncatedJson
    | EmptyBody
    | ConnectionReset
    | ErrorInSuccess
    | EmptyBatch
    | EqualCursors
    | RateLimited
    | DeadCursor
    | LoopingCursor
    | OddUsage
)
Fault: TypeAlias = Latency | LimitBegins | Refusing

Bending: TypeAlias = EmptyBatch | EqualCursors | LoopingCursor
"""What is answered, but not quite as it should be."""


class Strike(msgspec.Struct, frozen=True):
    """What strikes one request; `seed` settles what the fault leaves open."""

    latency_seconds: float = 0.0
    fault: Refusing | None = None
    seed: int = 0
    limit_seconds: float = 0.0
    """For how long a rate limit begins; 0 for none."""

    @property
    def wait_seconds(self) -> float:
        """How long the answer is held back."""
        return self.latency_seconds + (self.fault.seconds if isinstance(self.fault, Hang) else 0.0)


def name_of(fault: Fault) -> str:
    """The name under which `parse_faults` knows it, and the simulator's record of requests."""
    return str(fault.__struct_config__.tag)
