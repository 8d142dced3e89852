"""Dead letters for people: a table of many, or everything about one."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import assert_never

import msgspec
from msgspec.structs import replace

from milepost.cli.options import NO_TITLES, Titles
from milepost.cli.terminal import PLAIN, Column, Terminal, elided, table
from milepost.core.checkpoint import DeadLetter
from milepost.core.dead_letters import conversation_of
from milepost.core.events import Stage
from milepost.reporting.humanize import ago, ahead, counted, in_columns, on_one_line
from milepost.reporting.views import dead_letter_view

NEXT = "next redrive"
COLUMNS = (
    Column("stage", rank=2),
    Column("subject", shortest=12),
    Column("opened", rank=3),
    Column("attempts", is_right=True, rank=1),
    Column(NEXT, rank=4),
)
REASON = Column("reason")
MAX_SUBJECT = 32
MAX_REASON = 60
MEANINGS = {
    Stage.FETCH: "it could not be read",
    Stage.STORE: "the database refused its row",
    Stage.EVENTS: "the database refused its interaction events",
}


def rendered(
    dead_letters: Sequence[DeadLetter], now: datetime, titles: Titles = NO_TITLES, terminal: Terminal = PLAIN
) -> list[str]:
    """Return the dead letters as lines: one each, and on a terminal one more for its reason, where that has room."""
    leading = titles.columns({dead_letter.stream for dead_letter in dead_letters})
    columns = [Column("id"), *leading, *COLUMNS]
    if any(dead_letter.closed_at is not None for dead_letter in dead_letters):
        columns[-1] = replace(columns[-1], heading=f"{NEXT}, or closed")
    rows = [
        [dead_letter.dead_letter_id, *titles.cells(dead_letter.stream, leading), *_row(dead_letter, now)]
        for dead_letter in dead_letters
    ]
    if terminal.width is None:
        reasons = [_shortened(dead_letter.reason, MAX_REASON) for dead_letter in dead_letters]
        return table([*columns, REASON], [[*row, why] for row, why in zip(rows, reasons, strict=True)]).lines
    details = [[on_one_line(dead_letter.reason)] for dead_letter in dead_letters]
    return table(columns, rows, terminal).with_details(details, terminal)


def _row(dead_letter: DeadLetter, now: datetime) -> list[str]:
    return [
        dead_letter.stage.value,
        _shortened(dead_letter.subject, MAX_SUBJECT),
        ago(dead_letter.opened_at, now),
        f"{dead_letter.attempts:,}",
        _next(dead_letter, now),
    ]


def labelled(dead_letter: DeadLetter) -> str:
    """Return what a line about a dead letter begins with: its id and its subject."""
    return f"{dead_letter.dead_letter_id}  {_shortened(dead_letter.subject, MAX_SUBJECT)}"


def _shortened(text: str, length: int) -> str:
    """Shorten an untrusted text in its middle: ids differ at their ends."""
    return elided(on_one_line(text), length)


def _next(dead_letter: DeadLetter, now: datetime) -> str:
    if dead_letter.closed_at is not None:
        return f"{dead_letter.resolution} {ago(dead_letter.closed_at, now)}"
    return "by command only" if dead_letter.redrive_at is None else ahead(dead_letter.redrive_at, now)


def as_json(dead_letter: DeadLetter, **more: object) -> bytes:
    """Return a dead letter as a JSON object of one line, with every key and those of `more`."""
    return msgspec.json.encode(msgspec.structs.asdict(dead_letter_view(dead_letter)) | more)


# --- one dead letter --------------------------------------------------------------------------------------------------


def described(dead_letter: DeadLetter, payload: str | None, now: datetime, terminal: Terminal = PLAIN) -> list[str]:
    """Return the lines about a dead letter, and what to do about it. The payload stays as it is."""
    facts = [
        ("dead letter", dead_letter.dead_letter_id),
        ("stream", dead_letter.stream.key),
        ("subject", on_one_line(dead_letter.subject)),
        ("stage", f"{dead_letter.stage}: {MEANINGS[dead_letter.stage]}"),
        ("reason", on_one_line(dead_letter.reason)),
        ("opened", _instant(dead_letter.opened_at, now)),
        (
            "redrives",
            f"{counted(dead_letter.attempts, 'failed redrive')} so far" if dead_letter.attempts else "none so far",
        ),
        *_ending(dead_letter, now),
    ]
    note = "There is no payload: it is removed when the dead letter is closed or its person is erased"
    if payload is not None:
        note = "The payload. It is personal data: take care where you keep and send it"
    shown = [] if payload is None else [pretty(payload)]
    above, below = [*in_columns(facts), "", note], ["", *(f"→ {hint}" for hint in _hints(dead_letter))]
    return [*terminal.fitted(above), *shown, *terminal.fitted(below)]


def _ending(dead_letter: DeadLetter, now: datetime) -> list[tuple[str, str]]:
    if dead_letter.closed_at is None:
        at = dead_letter.redrive_at
        return [("next redrive", "not automatic" if at is None else f"{ahead(at, now)}, at {_text(at)}")]
    note = [("note", on_one_line(dead_letter.note))] if dead_letter.note else []
    return [("closed", f"{dead_letter.resolution}, {_instant(dead_letter.closed_at, now)}"), *note]


def _hints(dead_letter: DeadLetter) -> list[str]:
    history = f"`milepost journal export | grep {dead_letter.dead_letter_id}` shows its history"
    if dead_letter.closed_at is not None:
        return [history]
    redrive = f"`milepost dead-letters redrive {dead_letter.dead_letter_id}`"
    discard = f"`milepost dead-letters discard {dead_letter.dead_letter_id} --reason …` discards it"
    conversation_id = conversation_of(dead_letter.subject)
    match dead_letter.stage:
        case Stage.FETCH if conversation_id is None:
            return ["it has no id to read it by, so a redrive cannot help: look at the payload", discard, history]
        case Stage.FETCH:
            return [f"{redrive} reads conversation {on_one_line(conversation_id or '')} again", discard, history]
        case Stage.STORE | Stage.EVENTS:
            return [f"fix what the reason names; then {redrive} writes it again", discard, history]
        case unknown:
            assert_never(unknown)


def pretty(payload: str) -> str:
    """Return a payload with an item a line, without anything that a terminal would interpret."""
    try:
        # Decoded and encoded again, so that control characters and the like are escaped in strings, and only there.
        text = msgspec.json.format(msgspec.json.encode(msgspec.json.decode(payload))).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return on_one_line(payload)
    return "\n".join("".join(each if each.isprintable() else " " for each in line) for line in text.splitlines())


def _instant(instant: datetime, now: datetime) -> str:
    return f"{ago(instant, now)}, at {_text(instant)}"


def _text(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
