"""The faults that can strike a request of the simulated API, and which requests they strike.

To add a fault: write its struct (the tag is its name), add it to `Refusing` and to the kinds that `faults` can parse;
the type checker then names the place that must implement it.
"""

from typing import TypeAlias

import msgspec


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


class Latency(msgspec.Struct, frozen=True, tag="latency"):
    """The response is delayed by this long."""

    when: When
    seconds: float


class Hang(msgspec.Struct, frozen=True, tag="hang"):
    """No response for this long, which should be longer than the client's timeout."""

    when: When
    seconds: float


class ServiceDown(msgspec.Struct, frozen=True, tag="http_500"):
    """HTTP 500, code 2, transient."""

    when: When


class UnknownError(msgspec.Struct, frozen=True, tag="unknown_error"):
    """HTTP 500, code 1."""

    when: When


class HtmlOutage(msgspec.Struct, frozen=True, tag="html_502"):
    """HTTP 502 with an HTML page."""

    when: When


class TruncatedJson(msgspec.Struct, frozen=True, tag="truncated"):
    """HTTP 200 with the first half of the response."""

    when: When


class EmptyBody(msgspec.Struct, frozen=True, tag="empty_body"):
    """HTTP 200 with an empty body."""

    when: When


class ConnectionReset(msgspec.Struct, frozen=True, tag="reset"):
    """The connection ends without a response."""

    when: When


class ErrorInSuccess(msgspec.Struct, frozen=True, tag="error_200"):
    """HTTP 200 with an error in the body (code 2)."""

    when: When


class EmptyBatch(msgspec.Struct, frozen=True, tag="empty_batch"):
    """An empty list with a `next` that continues at the same position; only lists are struck."""

    when: When


class EqualCursors(msgspec.Struct, frozen=True, tag="equal_cursors"):
    """A list whose `before` equals its `after`, which does not mean the end; only lists are struck."""

    when: When


class RateLimited(msgspec.Struct, frozen=True, tag="rate_limit"):
    """Code 4, 613 or 80006 (at random), with `estimated_time_to_regain_access` 0 or 1."""

    when: When


class DeadCursor(msgspec.Struct, frozen=True, tag="dead_cursor"):
    """Code 2642 or a plain 100, as if the cursor had expired; requests without `after` are spared."""

    when: When


class LoopingCursor(msgspec.Struct, frozen=True, tag="looping_cursor"):
    """A list whose `next` leads back to the same position; requests without `after` are spared."""

    when: When


class OddUsage(msgspec.Struct, frozen=True, tag="odd_usage"):
    """An honest response whose usage headers have one of the forms that clients do not expect."""

    when: When


class LimitBegins(msgspec.Struct, frozen=True, tag="limit"):
    """A rate limit of a random kind begins with this request and lasts for this long."""

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
"""Faults that distort an otherwise honest list."""


class Strike(msgspec.Struct, frozen=True):
    """What strikes one request; `seed` determines what the fault leaves open."""

    latency_seconds: float = 0.0
    fault: Refusing | None = None
    seed: int = 0
    limit_seconds: float = 0.0
    """The duration of a rate limit that begins; 0 for none."""

    @property
    def wait_seconds(self) -> float:
        """The delay of the response."""
        return self.latency_seconds + (self.fault.seconds if isinstance(self.fault, Hang) else 0.0)


def name_of(fault: Fault) -> str:
    """Return the fault's name in `parse_faults` and in the record of requests."""
    return str(fault.__struct_config__.tag)
