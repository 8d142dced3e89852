"""`milepost dead-letters`: what could not be read or written, and what to do about it."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import assert_never

import click
import msgspec
from msgspec.structs import replace

from milepost.app.database import store_url_of
from milepost.cli.options import (
    BY,
    NO_TITLES,
    Titles,
    config_option,
    demand_known,
    known_titles,
    load_settings,
    stream_option,
    warnings_logged,
)
from milepost.cli.terminal import PLAIN, Column, Group, Terminal, echo, echo_wrapped, elided, stdout_terminal, table
from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import DeadLetterCommand, Discard, Redrive
from milepost.core.dead_letters import MAX_REASON_CHARACTERS, conversation_of
from milepost.core.events import Stage
from milepost.reporting.humanize import ago, ahead, counted, in_columns, on_one_line
from milepost.reporting.summary import ExitCode
from milepost.reporting.views import dead_letter_view
from milepost.settings.model import Settings
from milepost.stores.open import open_reader
from milepost.stores.reader import DeadLetterState, JournalReader, all_dead_letters

MAX_ROWS = 1_000
MAX_AT_ONCE = 10_000
MAX_CANDIDATES = 5

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


@click.group(cls=Group, name="dead-letters")
def command() -> None:
    """List, show, redrive or discard dead letters: what could not be read or written, kept for a redrive.

    An ID may be shortened to any unique prefix.
    """


# --- reading ----------------------------------------------------------------------------------------------------------


@command.command(name="list")
@config_option
@click.option("--all", "lists_closed", is_flag=True, help="Include closed ones, and how they were closed.")
@stream_option
@click.option(
    "--json", "writes_json", is_flag=True, help="Write JSON Lines: one object for each, with times in ISO 8601."
)
def list_(config: str | None, stream: str | None, *, lists_closed: bool, writes_json: bool) -> None:
    """List the open dead letters, oldest first.

    The objects of --json have dead_letter_id, stream, stage (fetch, store or events), subject, reason, opened_at,
    attempts, redrive_at (when it is redriven automatically), closed_at, resolution (redriven, recovered, discarded or
    forgotten), note (why it was discarded) and fingerprint. Fields that do not apply are null.
    """
    asyncio.run(_list(load_settings(config), stream, open_only=not lists_closed, writes_json=writes_json))


async def _list(settings: Settings, stream: str | None, *, open_only: bool, writes_json: bool) -> None:
    rows: list[DeadLetter] = []
    number = 0
    async with open_reader(store_url_of(settings)) as journal_reader:
        await demand_known(stream, journal_reader, settings)
        titles = await known_titles(settings, journal_reader)
        state = DeadLetterState.OPEN if open_only else DeadLetterState.ALL
        async for dead_letter in all_dead_letters(journal_reader, state, stream=stream):
            number += 1
            if writes_json:
                click.echo(as_json(dead_letter))
            elif number <= MAX_ROWS:
                rows.append(dead_letter)
    if writes_json:
        return
    if not rows:
        echo_wrapped(_none(stream, open_only=open_only))
        return
    terminal = stdout_terminal()
    echo(rendered(rows, datetime.now(UTC), titles, terminal), terminal)
    if number > MAX_ROWS:
        echo_wrapped(f"… and {number - MAX_ROWS:,} more: --json lists them all")


def _none(stream: str | None, *, open_only: bool) -> str:
    where = "" if stream is None else f" of {stream}"
    if open_only:
        return f"No dead letter{where} is open; `milepost dead-letters list --all` lists closed ones"
    return f"There has never been a dead letter{where}"


@command.command()
@config_option
@click.option(
    "--json", "writes_json", is_flag=True, help="Write one JSON object: that of `list --json`, with the payload."
)
@click.argument("dead_letter_id", metavar="ID")
def show(config: str | None, dead_letter_id: str, *, writes_json: bool) -> None:
    """Show a dead letter with the payload that is kept for its redrive, which is personal data."""
    dead_letter, payload = asyncio.run(_read(load_settings(config), dead_letter_id))
    if writes_json:
        click.echo(
            msgspec.json.format(
                as_json(dead_letter, payload=None if payload is None else msgspec.Raw(payload.encode()))
            )
        )
    else:
        terminal = stdout_terminal()
        echo(described(dead_letter, payload, datetime.now(UTC), terminal), terminal)


async def _read(settings: Settings, beginning: str) -> tuple[DeadLetter, str | None]:
    async with open_reader(store_url_of(settings)) as journal_reader:
        (dead_letter,) = await _find(journal_reader, [beginning])
        return await journal_reader.dead_letter(dead_letter.dead_letter_id) or (dead_letter, None)


def as_json(dead_letter: DeadLetter, **more: object) -> bytes:
    """Return a dead letter as a JSON object on one line, with all keys and those of `more`."""
    return msgspec.json.encode(msgspec.structs.asdict(dead_letter_view(dead_letter)) | more)


# --- acting -----------------------------------------------------------------------------------------------------------


@command.command()
@config_option
@stream_option
@click.argument("ids", metavar="[ID]...", nargs=-1)
def redrive(config: str | None, stream: str | None, ids: Sequence[str]) -> None:
    """Redrive dead letters now: the given ones, or all open ones.

    If a daemon is using the database, this command asks it to do the work, over its HTTP service.

    Exit codes: 0 all are closed · 1 some are still open · 75 some were not tried (a rate limit, a stop, too many at
    once), or are still running in the daemon · 77 their stream is stopped for authorization · 78 bad configuration ·
    2 wrong usage
    """
    if ids and stream is not None:
        raise click.UsageError("--stream and IDs exclude each other: --stream selects among all open dead letters")
    settings = load_settings(config)
    dead_letters, is_all = asyncio.run(_choose(settings, ids, stream))
    if not dead_letters and not ids:
        echo_wrapped(_none(stream, open_only=True))
    code = _perform(settings, dead_letters, lambda dead_letter_id: Redrive(dead_letter_id, BY), "closed")
    sys.exit(code if is_all or code is not ExitCode.COMPLETE else ExitCode.PROGRESS_SAVED)


@command.command()
@config_option
@click.option("--reason", metavar="TEXT", required=True, help="Why. It is journaled: write no names or message texts.")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def discard(config: str | None, reason: str, ids: Sequence[str]) -> None:
    """Discard dead letters: their payload is removed, and their subject is skipped until it changes.

    The exit codes are those of redrive.
    """
    reason = reason.strip()
    _demand_utf_8(reason, "--reason")
    if not 1 <= len(reason) <= MAX_REASON_CHARACTERS:
        raise click.BadParameter(f"write 1 to {MAX_REASON_CHARACTERS} characters", param_hint="--reason")
    settings = load_settings(config)
    dead_letters, _ = asyncio.run(_choose(settings, ids, None))
    sys.exit(_perform(settings, dead_letters, lambda dead_letter_id: Discard(dead_letter_id, reason, BY), "discarded"))


def _is_open(dead_letter: DeadLetter) -> bool:
    """Return whether a dead letter is open; if it is not, say so."""
    if dead_letter.closed_at is not None:
        how = f"{dead_letter.resolution} {ago(dead_letter.closed_at, datetime.now(UTC))}"
        echo_wrapped(f"{_label(dead_letter)}: already closed, {how}")
    return dead_letter.closed_at is None


def _perform(
    settings: Settings, dead_letters: Sequence[DeadLetter], command_for: Callable[[str], DeadLetterCommand], done: str
) -> ExitCode:
    """Perform a command on each open dead letter, and return the exit code. `done` describes a closed one."""
    work = [(_label(each), each, command_for(each.dead_letter_id)) for each in dead_letters if _is_open(each)]
    if not work:
        return ExitCode.COMPLETE
    # Imported here so that listing does not load the engine.
    from milepost.cli.actions import perform_on_dead_letters  # noqa: PLC0415

    with warnings_logged(settings):
        return asyncio.run(perform_on_dead_letters(settings, work, done))


# --- which ones -------------------------------------------------------------------------------------------------------


async def _choose(settings: Settings, ids: Sequence[str], stream: str | None) -> tuple[Sequence[DeadLetter], bool]:
    """Return the dead letters with these ids or, without ids, the open ones, oldest first, and whether that is all."""
    async with open_reader(store_url_of(settings)) as journal_reader:
        if ids:
            return await _find(journal_reader, ids), True
        await demand_known(stream, journal_reader, settings)
        dead_letters: list[DeadLetter] = []
        async for dead_letter in all_dead_letters(journal_reader, DeadLetterState.OPEN, stream=stream):
            if len(dead_letters) == MAX_AT_ONCE:
                click.echo(f"More than {MAX_AT_ONCE:,} are open: run it again for the newest", err=True)
                return dead_letters, False
            dead_letters.append(dead_letter)
        return dead_letters, True


async def _find(journal_reader: JournalReader, prefixes: Sequence[str]) -> Sequence[DeadLetter]:
    """Return the dead letter of each id or prefix. Raises BadParameter for a prefix of none or of several."""
    found: dict[str, DeadLetter] = {}
    for prefix in prefixes:
        _demand_utf_8(prefix, "ID")
        exact = await journal_reader.dead_letter(prefix)
        dead_letter = exact[0] if exact is not None else await _find_prefix(journal_reader, prefix)
        found[dead_letter.dead_letter_id] = dead_letter
    return list(found.values())


def _demand_utf_8(text: str, given_as: str) -> None:
    """Raise BadParameter for an argument that a terminal wrote in another encoding: no database takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8", param_hint=given_as) from None


async def _find_prefix(journal_reader: JournalReader, prefix: str) -> DeadLetter:
    candidates: list[DeadLetter] = []
    async for dead_letter in all_dead_letters(journal_reader, DeadLetterState.ALL):
        if prefix and dead_letter.dead_letter_id.startswith(prefix):  # it may be an empty shell variable
            candidates.append(dead_letter)
            if len(candidates) > MAX_CANDIDATES:
                break
    match candidates:
        case [dead_letter]:
            return dead_letter
        case []:
            problem = f"no dead letter begins with {prefix!r}; `milepost dead-letters list --all` lists them"
        case _:
            ids = ", ".join(dead_letter.dead_letter_id for dead_letter in candidates[:MAX_CANDIDATES])
            more = ", …" if len(candidates) > MAX_CANDIDATES else ""
            problem = f"{prefix!r} matches {counted(len(candidates), 'dead letter')}: {ids}{more}"
    raise click.BadParameter(problem, param_hint="ID")


# --- for people: a table of many, or everything about one -------------------------------------------------------------


def rendered(
    dead_letters: Sequence[DeadLetter], now: datetime, titles: Titles = NO_TITLES, terminal: Terminal = PLAIN
) -> list[str]:
    """Return the dead letters as lines: one each, and on a terminal another with the reason in full."""
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


def _label(dead_letter: DeadLetter) -> str:
    """Return the label that a line about a dead letter begins with: its id and its subject."""
    return f"{dead_letter.dead_letter_id}  {_shortened(dead_letter.subject, MAX_SUBJECT)}"


def _shortened(text: str, length: int) -> str:
    """Shorten an untrusted text in its middle: ids differ at their ends."""
    return elided(on_one_line(text), length)


def _next(dead_letter: DeadLetter, now: datetime) -> str:
    if dead_letter.closed_at is not None:
        return f"{dead_letter.resolution} {ago(dead_letter.closed_at, now)}"
    return "by command only" if dead_letter.redrive_at is None else ahead(dead_letter.redrive_at, now)


def described(dead_letter: DeadLetter, payload: str | None, now: datetime, terminal: Terminal = PLAIN) -> list[str]:
    """Return lines that describe a dead letter and what to do about it. The payload is not shortened."""
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
    shown = [] if payload is None else [_pretty(payload)]
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


def _pretty(payload: str) -> str:
    """Return a payload with one item on each line, and nothing that a terminal would interpret."""
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
