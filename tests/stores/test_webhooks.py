"""The inbox of webhook events in any database."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

import msgspec
import psycopg
import pytest
from msgspec.structs import replace

from kit.binary import until
from kit.builders import NOON, STREAM, at
from kit.needs import long_only
from kit.postgres import Database, Server
from kit.power_cut import Call, Disk, recorded, recording
from milepost.core.errors import StoreAway
from milepost.core.events import DeadLetterOpened, RunStarted, Stage
from milepost.core.journal import instant_text
from milepost.core.model import Changes, DeadLetterPayload, Platform, Stream
from milepost.core.webhooks import DueFact, FactsApplied, WebhookEvent, WebhookKind
from milepost.stores.open import forget, open_store, remove
from milepost.stores.postgresql.commit import PostgresqlWriter
from milepost.stores.postgresql.connection import connected, settings
from milepost.stores.postgresql.encoding import json_rows, with_inserts
from milepost.stores.reader import load_statements
from milepost.stores.store import OpenStore
from milepost.stores.url import StoreUrl
from milepost.stores.webhooks import LATER_SECONDS, NEVER, SOON_SECONDS, Steps, StoredWebhooks, event_columns
from stores.histories import commit_after, contact_row, event_row, page_row
from stores.processes import outcome
from stores.store_dump import IN_POSTGRESQL, SqliteDump, StoreDump
from stores.take_webhooks import SENDERS

OTHER = Stream(Platform.INSTAGRAM, "1234567890")


def written(
    message_id: str, of: Stream = STREAM, contact_id: str | None = "ada", occurred_at: datetime = NOON
) -> WebhookEvent:
    return WebhookEvent(of, WebhookKind.MESSAGE, message_id, contact_id, occurred_at)


async def keep(store: OpenStore, *message_ids: str) -> None:
    """Store messages, as a sweep does."""
    rows = tuple(replace(event_row(message_id), contact_id="ada") for message_id in message_ids)
    changes = Changes(interaction_events=rows)
    await store.commit(commit_after(await store.load(STREAM), RunStarted(NOON), changes=changes))


def waiting(kept: StoreDump) -> list[str]:
    """Return the messages of the events that are not worked off."""
    query = "SELECT message_id FROM webhook_events WHERE due_at IS NOT NULL ORDER BY message_id"
    return [message_id for (message_id,) in kept.rows(query)]


class TestWebhooks:
    async def test_an_event_is_new_once(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            first, again = written("m_1"), written("m_1", contact_id=None, occurred_at=at(1))
            assert await store.webhooks.add([first, written("m_2"), first], NOON) == {first.key, written("m_2").key}
            assert await store.webhooks.add([again, written("m_3")], at(1)) == {written("m_3").key}
            assert await store.webhooks.add([], NOON) == frozenset()
        assert waiting(kept) == ["m_1", "m_2", "m_3"]

    async def test_streams_are_claimed_once_however_many_events_they_have(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            events = [written(f"m_{number}", of) for number in range(200) for of in (STREAM, OTHER)]
            await store.webhooks.add(events, NOON)
            assert await store.webhooks.claim(NOON) == (OTHER, STREAM)
            assert await store.webhooks.claim(at(1)) == ()

    async def test_an_event_is_due_twice_more_and_then_waits_for_a_regular_sweep(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.webhooks.add([written("m_1")], NOON)
            due: list[float] = []
            for seconds in (*range(200), *range(200, 3600, 50)):
                due += [seconds] * len(await store.webhooks.claim(at(seconds)))
        assert due == [0, SOON_SECONDS, SOON_SECONDS + LATER_SECONDS]
        assert waiting(kept) == ["m_1"]

    async def test_an_event_that_came_while_the_clock_was_ahead_is_due_at_once(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.webhooks.add([written("m_1")], at(5 * 3600))
            assert await store.webhooks.claim(NOON) == (STREAM,)
            due = [seconds for seconds in range(200) if await store.webhooks.claim(at(seconds))]
        assert due == [SOON_SECONDS, SOON_SECONDS + LATER_SECONDS]

    async def test_a_worker_whose_clock_is_behind_takes_no_event_before_its_time(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.webhooks.add([written("m_1")], NOON)
            await store.webhooks.claim(NOON)
            assert await store.webhooks.claim(at(SOON_SECONDS)) == (STREAM,)
            assert await store.webhooks.claim(at(SOON_SECONDS - 2)) == ()
            assert await store.webhooks.claim(at(SOON_SECONDS + LATER_SECONDS)) == (STREAM,)

    async def test_events_whose_message_is_stored_are_worked_off(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            await store.webhooks.add([written("m_1")], NOON)
            assert await store.webhooks.claim(NOON) == (), "it came by a sweep before"
            await store.webhooks.add([written("m_2"), written("m_3")], NOON)
            assert await store.webhooks.claim(NOON) == (STREAM,)
            await keep(store, "m_2")
            assert await store.webhooks.claim(at(SOON_SECONDS)) == (STREAM,), "m_3 is still missing"
            assert waiting(kept) == ["m_3"]
            assert await store.webhooks.add([written("m_2")], at(60)) == frozenset(), "a late repetition is none"

    async def test_a_message_that_was_unsent_before_it_was_read_is_not_looked_for(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.webhooks.add([written("m_1"), written("m_2"), said(WebhookKind.UNSEND, "m_1", 5)], NOON)
            await store.webhooks.claim(NOON)
            assert await store.webhooks.trim(at(60), 100) == {WebhookKind.MESSAGE: 1, WebhookKind.UNSEND: 1}

    async def test_a_revision_of_a_stored_message_is_claimed_once(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            edits = [
                WebhookEvent(STREAM, WebhookKind.REVISION, message_id, "ada", NOON, which)
                for message_id, which in (("m_1", "1"), ("m_1", "2"), ("m_2", "1"))
            ]
            assert len(await store.webhooks.add(edits, NOON)) == 3
            assert await store.webhooks.claim(NOON) == (STREAM,)
            assert await store.webhooks.claim(at(3600)) == ()
        assert waiting(kept) == []

    async def test_messages_that_an_event_announced_are_known(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            await store.webhooks.add([written("m_1"), written("m_2")], NOON)
            await store.webhooks.claim(NOON)
            assert await store.webhooks.announced(("m_0", "m_1", "m_2", "")) == {"m_1", "m_2"}
            assert await store.webhooks.announced(()) == frozenset()

    async def test_the_instagram_stream_is_found_by_what_is_stored_of_it(self, kept: StoreDump) -> None:
        message, contact, elsewhere = (
            event_row("m_1", of=OTHER),
            contact_row("ada", of=OTHER),
            Stream(OTHER.platform, "102"),
        )
        changes = Changes(interaction_events=(message,), contacts=(contact,), page=page_row(of=OTHER))
        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(await store.load(OTHER), RunStarted(NOON), changes=changes))
            await keep(store, "m_2")
            find = store.webhooks.instagram_stream
            assert (await find(("m_1", "m_3"), ()), await find((), ("ada",))) == (OTHER, OTHER)
            assert (await find((), ()), await find(("m_3",), ("bob",))) == (None, None)
            assert await find(("m_2",), ()) is None, "of Messenger"
            changes = Changes(interaction_events=(event_row("m_4", of=elsewhere),))
            await store.commit(commit_after(await store.load(elsewhere), RunStarted(NOON), changes=changes))
            assert await find(("m_1", "m_4"), ()) is None, "of two pages"

    async def test_old_events_and_too_many_are_deleted_and_those_that_waited_are_counted(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_0", "m_2")
            for number in range(6):
                await store.webhooks.add([written(f"m_{number}")], at(number))
            await store.webhooks.claim(at(10))
            assert await store.webhooks.trim(at(2), 100) == {WebhookKind.MESSAGE: 1}, "m_0 was worked off"
            assert await store.webhooks.trim(at(2), 100) == {}
            assert await store.webhooks.trim(at(2), 2) == {WebhookKind.MESSAGE: 1}, "m_2 was worked off"
        assert waiting(kept) == ["m_4", "m_5"]

    async def test_an_event_whose_message_only_a_regular_sweep_has_stored_is_not_one_that_waited(
        self, kept: StoreDump
    ) -> None:
        async with open_store(kept.store_url) as store:
            await store.webhooks.add([written("m_1"), written("m_2")], NOON)
            for seconds in (0, SOON_SECONDS, SOON_SECONDS + LATER_SECONDS):
                await store.webhooks.claim(at(seconds))
            await keep(store, "m_1")
            assert await store.webhooks.trim(at(60), 100) == {WebhookKind.MESSAGE: 1}, "m_1 was worked off"

    async def test_events_of_a_person_are_erased_with_them_and_no_new_ones_are_kept(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            nameless = written("m_1", contact_id=None)
            await store.webhooks.add([nameless, written("m_2"), written("m_3", contact_id="bob")], NOON)
            await store.webhooks.add([written("m_4", OTHER)], NOON)

            await forget(kept.store_url, STREAM, "ada")

            assert kept.rows("SELECT message_id FROM webhook_events ORDER BY 1") == [("m_3",), ("m_4",)]
            assert await store.webhooks.add([written("m_5"), written("m_6", contact_id="bob")], NOON) == {
                written("m_6").key
            }

    async def test_events_of_a_stream_are_removed_with_it(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            await store.webhooks.add([written("m_2"), written("m_3", OTHER)], NOON)
        await remove(kept.store_url, STREAM, "somebody", NOON)
        assert kept.rows("SELECT message_id FROM webhook_events") == [("m_3",)]


# --- facts ------------------------------------------------------------------------------------------------------------


def said(kind: WebhookKind, message_id: str, seconds: float, **rest: object) -> WebhookEvent:
    """Return a fact, which has a detail that is JSON."""
    fact = WebhookEvent(STREAM, kind, message_id, "ada", at(seconds), str(seconds), detail='{"text":"hallo"}')
    return replace(fact, **rest)


async def apply(store: OpenStore, *, revises: bool = True) -> tuple[DueFact, ...]:
    """Work off the facts that are due, as a stream does that has reactions for all of them."""
    due = await store.due_facts(STREAM, 100)
    rows = {
        each.message.event_id: replace(each.message, reactions="[]", referral="{}", content_at=at(9)) for each in due
    }
    changes = Changes(revised=tuple(rows.values()) if revises else (), settled=tuple(each.event_key for each in due))
    await store.commit(commit_after(await store.load(STREAM), FactsApplied(reactions=1), changes=changes))
    return due


class TestFacts:
    async def test_a_fact_waits_for_its_message_and_is_worked_off_with_it(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            edit, another = said(WebhookKind.EDIT, "m_1", 5), said(WebhookKind.EDIT, "m_2", 5)
            await store.webhooks.add([edit, another, edit], NOON)
            assert await store.webhooks.claim(at(1)) == (), "no sweep finds a fact"
            assert (await store.webhooks.streams_with_facts(), await store.due_facts(STREAM, 9)) == ((), ())
            await keep(store, "m_1")
            assert await store.webhooks.streams_with_facts() == (STREAM,)
            (due,) = await apply(store)
            row = replace(event_row("m_1"), contact_id="ada")
            assert due == DueFact(edit.key, WebhookKind.EDIT, "", at(5), edit.detail, False, row)
            assert await store.webhooks.streams_with_facts() == ()
            assert await store.webhooks.add([edit], at(60)) == frozenset(), "a repetition"
        assert waiting(kept) == ["m_2"]
        columns = "reactions, referral, content_at IS NOT NULL"
        ((reactions, referral, is_dated),) = kept.rows(f"SELECT {columns} FROM contact_interaction_events")
        assert (as_json(reactions), as_json(referral), bool(is_dated)) == ([], {}, True)
        details = kept.rows("SELECT message_id, detail FROM webhook_events ORDER BY message_id")
        assert details == [("m_1", None), ("m_2", another.detail)], "what was applied is kept in its message only"

    async def test_that_a_message_was_unsent_is_due_without_saying_whose_it_is(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            unsent = replace(said(WebhookKind.UNSEND, "m_1", 5), contact_id=None)
            assert await store.webhooks.add([unsent], NOON) == {unsent.key}
            assert await store.webhooks.streams_with_facts() == (STREAM,)
            (due,) = await apply(store)
        assert (due.kind, due.message.event_id) == (WebhookKind.UNSEND, "m_1")

    async def test_facts_come_in_the_order_of_their_times_and_know_of_later_ones(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            facts = [
                said(WebhookKind.REACTION, "m_1", 7, actor="ada"),
                said(WebhookKind.REACTION, "m_1", 5, actor="ada", detail=None),
                said(WebhookKind.REACTION, "m_1", 6, actor="101"),
                said(WebhookKind.EDIT, "m_1", 8),
            ]
            await store.webhooks.add(facts, NOON)
            due = await apply(store, revises=False)
            assert [(each.occurred_at, each.is_superseded) for each in due] == [
                (at(5), True),
                (at(6), False),
                (at(7), False),
                (at(8), False),
            ]
            late = said(WebhookKind.REACTION, "m_1", 6.5, actor="ada")
            await store.webhooks.add([late], at(60))
            assert [each.is_superseded for each in await store.due_facts(STREAM, 9)] == [True], "also of one applied"
            await store.webhooks.add([said(WebhookKind.REACTION, "m_1", 9, actor="ada")], at(60))
            assert len(await store.due_facts(STREAM, 1)) == 1

    async def test_facts_of_another_page_are_not_of_this_one(self, kept: StoreDump) -> None:
        """The message of an account that was linked to another page has moved first."""
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            await store.webhooks.add([said(WebhookKind.EDIT, "m_1", 5, stream=OTHER)], NOON)
            assert await store.webhooks.streams_with_facts() == ()
            assert await store.due_facts(OTHER, 9) == ()

    async def test_a_referral_is_about_the_next_message_and_a_reading_about_the_last(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            rows = tuple(replace(event_row(f"m_{n}"), contact_id="ada", occurred_at=at(n)) for n in (1, 2, 4))
            changes = Changes(interaction_events=rows)
            referral, read = said(WebhookKind.REFERRAL, "", 2), said(WebhookKind.READ, "", 3)
            of_later = said(WebhookKind.REFERRAL, "", 5)
            await store.webhooks.add([referral, read, of_later], NOON)
            assert await store.webhooks.streams_with_facts() == ()
            await store.commit(commit_after(await store.load(STREAM), RunStarted(NOON), changes=changes))
            assert await store.webhooks.streams_with_facts() == (STREAM,)
            due = await store.due_facts(STREAM, 9)
            assert [(each.kind, each.message.event_id, each.is_superseded) for each in due] == [
                (WebhookKind.REFERRAL, "m_2", False),
                (WebhookKind.READ, "m_2", True),  # m_4 has come since
            ]
        assert waiting(kept) == ["", "m_2", "m_2"]

    async def test_a_look_for_the_message_of_a_fact_writes_nothing_until_it_is_stored(self, kept: StoreDump) -> None:
        """There is one every few seconds, and a fact may wait for two days: whoever follows an ad need not write."""
        written = "PRAGMA data_version" if kept.kind == "sqlite" else "SELECT xmin::text FROM webhook_events"
        async with open_store(kept.store_url) as store:
            early, late = said(WebhookKind.READ, "", -1), said(WebhookKind.REFERRAL, "", 5)
            await keep(store, "m_1")
            await store.webhooks.add([early, late], NOON)
            with kept.asking() as ask:
                before = ask(written)
                assert await store.webhooks.streams_with_facts() == ()
                assert ask(written) == before

    async def test_facts_that_never_find_their_message_are_counted_by_kind(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            facts = [said(kind, "m_1", 5) for kind in WebhookKind if kind.is_fact]
            await store.webhooks.add([*facts, written("m_2")], NOON)
            expired = await store.webhooks.trim(at(60), 100)
            assert expired == dict.fromkeys((each.kind for each in (*facts, written("m_2"))), 1)

    async def test_what_waits_is_erased_with_its_person_and_no_more_is_kept(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            nameless = said(WebhookKind.EDIT, "m_1", 5, contact_id=None)
            referral = said(WebhookKind.REFERRAL, "", 5)
            await store.webhooks.add([nameless, said(WebhookKind.EDIT, "m_2", 5), referral], NOON)

            await forget(kept.store_url, STREAM, "ada")

            assert await store.webhooks.add([said(WebhookKind.UNSEND, "m_2", 6)], NOON) == frozenset()
            assert kept.rows("SELECT event_key FROM webhook_events") == []

    async def test_what_is_kept_of_an_unsent_message_that_is_not_stored_is_erased(self, kept: StoreDump) -> None:
        """It may be in the payload of a dead letter, or be an edit that waits."""
        row = event_row("m_1", text="a secret")
        payload = DeadLetterPayload("d_1", msgspec.json.encode(Changes(interaction_events=(row,))).decode())
        opened = DeadLetterOpened("d_1", Stage.EVENTS, "t_1/events/d_1", "why")
        async with open_store(kept.store_url) as store:
            checkpoint = await store.load(STREAM)
            await store.commit(commit_after(checkpoint, opened, changes=Changes(payloads=(payload,))))
            edit = said(WebhookKind.EDIT, "m_1", 5, detail='{"text":"a secret"}')
            await store.webhooks.add([edit, said(WebhookKind.EDIT, "m_2", 5)], NOON)
            assert await store.webhooks.streams_with_facts() == ()
            assert "a secret" in kept.rows("SELECT payload FROM dead_letter_payloads")[0][0]
            await store.webhooks.add([said(WebhookKind.UNSEND, "m_1", 9, detail=None)], NOON)
            assert await store.webhooks.streams_with_facts() == ()
            ((left,),) = kept.rows("SELECT payload FROM dead_letter_payloads")
            assert msgspec.json.decode(left, type=Changes).interaction_events == (replace(row, text=None),)
            details = kept.rows("SELECT message_id, detail FROM webhook_events WHERE kind = 'edit' ORDER BY message_id")
            assert details == [("m_1", None), ("m_2", '{"text":"hallo"}')]

    async def test_a_stream_with_a_long_commit_holds_up_no_other_with_unsent_messages(
        self, kept: StoreDump, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its own are erased later."""
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            unsent = [said(WebhookKind.UNSEND, "m_1", 9), replace(said(WebhookKind.UNSEND, "m_2", 9), stream=OTHER)]
            await store.webhooks.add(unsent, NOON)
            assert isinstance(store.webhooks, StoredWebhooks)
            write_alone = store.webhooks._write_alone

            async def is_away(stream: str, steps: Steps[None]) -> None:
                if stream == OTHER.key:
                    raise StoreAway("a lock was not granted in time")
                await write_alone(stream, steps)

            monkeypatch.setattr(store.webhooks, "_write_alone", is_away)
            assert await store.webhooks.streams_with_facts() == (STREAM,)
            taken = "SELECT stream FROM webhook_events WHERE claims = 1 ORDER BY stream"
            assert kept.rows(taken) == [(STREAM.key,)]
            monkeypatch.undo()
            await store.webhooks.streams_with_facts()
            assert kept.rows(taken) == [(OTHER.key,), (STREAM.key,)]

    async def test_a_dead_letter_opened_later_keeps_no_text_of_an_unsent_message(self, kept: StoreDump) -> None:
        rows = [event_row(f"m_{number}", text=f"a secret of m_{number}") for number in (1, 2)]
        payloads = tuple(
            DeadLetterPayload(f"d_{row.event_id}", msgspec.json.encode(Changes(interaction_events=(row,))).decode())
            for row in rows
        )
        opened = [DeadLetterOpened(each.dead_letter_id, Stage.EVENTS, each.dead_letter_id, "why") for each in payloads]
        async with open_store(kept.store_url) as store:
            await store.webhooks.add([said(WebhookKind.UNSEND, "m_1", 9, detail=None)], NOON)
            assert await store.webhooks.streams_with_facts() == ()
            checkpoint = await store.load(STREAM)
            await store.commit(commit_after(checkpoint, *opened, changes=Changes(payloads=payloads)))
        left = kept.rows("SELECT payload FROM dead_letter_payloads ORDER BY dead_letter_id")
        found = [row for (payload,) in left for row in msgspec.json.decode(payload, type=Changes).interaction_events]
        assert found == [replace(rows[0], text=None), rows[1]]

    async def test_of_an_unsent_message_that_is_not_stored_no_later_edit_is_kept(self, kept: StoreDump) -> None:
        """Facts come in any order. It is still known as a repetition, and announces nothing else."""
        edits = [said(WebhookKind.EDIT, message_id, 5, detail='{"text":"a secret"}') for message_id in ("m_1", "m_2")]
        async with open_store(kept.store_url) as store:
            await store.webhooks.add([said(WebhookKind.UNSEND, "m_1", 9, detail=None)], NOON)
            assert await store.webhooks.streams_with_facts() == ()
            assert await store.webhooks.add(edits, NOON) == {each.key for each in edits}
            assert await store.webhooks.add(edits, NOON) == frozenset()
        details = kept.rows("SELECT message_id, detail FROM webhook_events WHERE kind = 'edit' ORDER BY message_id")
        assert details == [("m_1", None), ("m_2", '{"text":"a secret"}')]

    async def test_reactions_are_erased_with_their_person_wherever_they_are(self, kept: StoreDump) -> None:
        """In a group, one may react to what another wrote."""
        by_ada, by_bob = ({"from": of, "at": "2026-03-01T12:00:00Z", "reaction": "love"} for of in ("ada", "bob"))
        rows = tuple(replace(event_row(f"m_{n}", conversation_id=f"t_{n}"), contact_id="eve") for n in (1, 2, 3))
        said_of = (
            json.dumps([by_ada, by_bob], separators=(",", ":")),
            json.dumps([by_ada], separators=(",", ":")),
            None,
        )
        revised = tuple(replace(row, reactions=said) for row, said in zip(rows, said_of, strict=True))
        async with open_store(kept.store_url) as store:
            for changes in (Changes(interaction_events=rows), Changes(revised=revised)):
                await store.commit(commit_after(await store.load(STREAM), RunStarted(NOON), changes=changes))
            await forget(kept.store_url, STREAM, "ada")
        found = kept.rows("SELECT event_id, reactions FROM contact_interaction_events ORDER BY event_id")
        assert [(event_id, as_json(said)) for event_id, said in found] == [
            ("m_1", [by_bob]),
            ("m_2", None),
            ("m_3", None),
        ]

    async def test_a_fact_announces_no_message(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.webhooks.add([said(WebhookKind.REACTION, "m_1", 5)], NOON)
            assert await store.webhooks.announced(("m_1",)) == frozenset()


def as_json(value: object) -> object:
    """Return JSON that one database gives as text, the other parsed."""
    return json.loads(value) if isinstance(value, str) else value


# --- SQLite: what is left whenever the process dies -------------------------------------------------------------------


class TestDeath:
    """Every death is made in the record of one process, which took webhooks and ended normally."""

    COUNT = 6

    @pytest.fixture(params=["full", *long_only("normal")])
    def directory(self, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        """Return where the process had its database; its record is beside it."""
        directory = tmp_path / "directory"
        directory.mkdir()
        options = [f"--count={self.COUNT}", f"--synchronous={request.param}"]
        life = [sys.executable, "-m", "stores.take_webhooks", str(directory / "milepost.db"), *options]
        assert outcome([*recording(directory.with_name("record")), *life])[-1] == "done"
        return directory

    def deaths(
        self, directory: Path, leave: Callable[[Disk, Path], Path], after: Callable[[Call], bool], onto: Path
    ) -> Iterator[tuple[StoreDump, set[str]]]:
        """Yield what is left by a death after each of these calls, with what had been acknowledged by then."""
        disk, acknowledged = Disk(directory), set[str]()
        for number, call in enumerate(recorded(directory.with_name("record"))):
            disk.follow(call)
            if call.is_printed:
                acknowledged |= {line[4:] for line in call.data.decode().splitlines() if line.startswith("ack ")}
            if acknowledged and after(call):
                yield SqliteDump(leave(disk, onto / str(number)) / "milepost.db"), set(acknowledged)

    @pytest.mark.parametrize(
        ("leave", "after"),
        [
            pytest.param(Disk.killed, lambda call: call.name != "fsync" or call.is_printed, id="a kill at any write"),
            pytest.param(Disk.cut, lambda call: call.is_sync or call.is_printed, id="a power cut"),
        ],
    )
    def test_no_acknowledged_event_is_lost(
        self,
        directory: Path,
        tmp_path: Path,
        leave: Callable[[Disk, Path], Path],
        after: Callable[[Call], bool],
    ) -> None:
        moments = 0
        for kept, acknowledged in self.deaths(directory, leave, after, tmp_path):
            stored = {message_id for (message_id,) in kept.rows("SELECT message_id FROM webhook_events")}
            assert acknowledged <= stored
            moments += 1
        assert moments > SENDERS * self.COUNT
        assert len(acknowledged) == SENDERS * self.COUNT


# --- PostgreSQL, where several workers share the events ---------------------------------------------------------------


SETTLE = "settle_webhook_events"


@IN_POSTGRESQL
async def test_one_of_several_workers_claims_an_event(kept: StoreDump) -> None:
    async with open_store(kept.store_url) as one, open_store(kept.store_url) as other:
        for number in range(10):
            events = [written(f"m_{number}_{each}") for each in range(20)]
            added = await asyncio.gather(one.webhooks.add(events, NOON), other.webhooks.add(events[::-1], NOON))
            assert sum(map(len, added)) == 20
            claimed = await asyncio.gather(one.webhooks.claim(NOON), other.webhooks.claim(NOON))
            assert {stream for streams in claimed for stream in streams} == {STREAM}
            assert await one.webhooks.claim(NOON) == await other.webhooks.claim(NOON) == ()


WAITS = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@IN_POSTGRESQL
async def test_nothing_is_added_of_a_person_while_they_are_erased(kept: StoreDump, database: Database) -> None:
    async with open_store(kept.store_url) as store, connected(kept.store_url, load_statements("postgresql")) as erasing:
        async with erasing.long_transaction() as connection:
            await PostgresqlWriter(erasing, connection).erase(STREAM, ["ada"])
            adding = asyncio.create_task(store.webhooks.add([written("m_1"), written("m_2", contact_id="bob")], NOON))
            await until(lambda: database.sql(WAITS) or adding.done())
        assert await adding == {written("m_2").key}


@IN_POSTGRESQL
async def test_a_commit_under_way_keeps_no_text_of_a_message_that_is_reported_as_unsent(
    kept: StoreDump, database: Database
) -> None:
    row = event_row("m_1", text="a secret")
    payload = DeadLetterPayload("d_1", msgspec.json.encode(Changes(interaction_events=(row,))).decode())
    opened = DeadLetterOpened("d_1", Stage.EVENTS, "t_1/events/d_1", "why")
    statements = with_inserts(load_statements("postgresql"))
    async with open_store(kept.store_url) as store, connected(kept.store_url, statements) as other:
        commit = commit_after(await store.load(STREAM), opened, changes=Changes(payloads=(payload,)))
        async with other.connection() as connection, AsyncExitStack() as pipelined:
            writer = PostgresqlWriter(other, connection, pipelined)
            group = await writer.prepare([commit])
            await store.webhooks.add([said(WebhookKind.UNSEND, "m_1", 9, detail=None)], NOON)
            erasing = asyncio.create_task(store.webhooks.streams_with_facts())
            await until(lambda: database.sql(WAITS) or erasing.done())
            await writer.write(group, 500)
        await erasing
    assert "a secret" not in kept.rows("SELECT payload FROM dead_letter_payloads")[0][0]


@IN_POSTGRESQL
async def test_an_edit_that_is_being_added_keeps_no_text_of_a_message_that_is_reported_as_unsent(
    kept: StoreDump, database: Database
) -> None:
    edit = said(WebhookKind.EDIT, "m_1", 5, detail='{"text":"a secret"}')
    statements = load_statements("postgresql", "statements", "webhooks")
    async with open_store(kept.store_url) as store, connected(kept.store_url, statements) as other:
        async with other.transaction() as connection:
            await other.rows_on(connection, "await_erasures")
            added = {"rows": json_rows([event_columns(edit)]), "now": instant_text(NOON)}
            await other.rows_on(connection, "add_webhook_events", added)
            await store.webhooks.add([said(WebhookKind.UNSEND, "m_1", 9, detail=None)], NOON)
            erasing = asyncio.create_task(store.webhooks.streams_with_facts())
            await until(lambda: database.sql(WAITS) or erasing.done())
        await erasing
    assert kept.rows("SELECT detail FROM webhook_events WHERE kind = 'edit'") == [(None,)]


def test_events_are_worked_off_without_reading_all_messages(database: Database) -> None:
    """The tables were never analysed, and hold as many events as they ever may."""
    database.sql(
        "INSERT INTO contact_interaction_events"
        " (event_id, conversation_id, platform, page_id, direction, kind, occurred_at)"
        " SELECT 'm_' || n, 't_1', 'messenger', '1', 'in', 'message', now() FROM generate_series(1, 2000) AS n"
    )
    database.sql(
        "INSERT INTO webhook_events"
        " SELECT 'k_' || n, 'messenger:1', 'message', 'm_' || n, NULL, now(), now(), now(), 0"
        " FROM generate_series(1, 50000) AS n"
    )
    settle = load_statements("postgresql", "webhooks")[SETTLE].replace("%(due_before)s", "'infinity'")
    plan = "\n".join(line for (line,) in database.sql(f"EXPLAIN {settle}"))
    assert "Seq Scan on contact_interaction_events" not in plan


@pytest.fixture
def with_old_events(postgres: Server) -> Database:
    """Return a database with 50,000 events that were worked off, or only wait."""

    async def fill(store_url: StoreUrl) -> None:
        async with open_store(store_url):
            pass
        connection = await psycopg.AsyncConnection.connect(store_url.url, password=store_url.password, autocommit=True)
        async with connection:
            await connection.execute(
                "INSERT INTO milepost.webhook_events"
                " SELECT 'k_' || n, 'messenger:1', 'message', 'm_' || n, NULL, now(), now(),"
                " CASE WHEN n % 2 = 0 THEN timestamptz '9000-01-01Z' END, 3 FROM generate_series(1, 50000) AS n"
            )

    return Database(postgres, postgres.template("template_old_events", fill))


@pytest.mark.parametrize(
    "name",
    [
        "add_webhook_events",
        "claim_webhook_events",
        "attach_facts",
        "follow_moves",
        "streams_with_unsent",
        "take_unsent",
        "erase_edits",
        "streams_with_facts",
        "delete_old_webhook_events",
    ],
)
def test_a_look_for_news_does_not_read_the_events_that_were_worked_off_or_only_wait(
    with_old_events: Database, name: str
) -> None:
    named = dict.fromkeys(("soon", "later", "ahead", "now", "received_before"), NOON) | {"never": NEVER, "rows": "[]"}
    statement = load_statements("postgresql", "webhooks")[name]
    asked = [["messenger:1"] if "%s::text[]" in statement else "messenger:1"] if "%s" in statement else named
    with with_old_events.connect() as connection, connection.transaction():
        connection.execute(load_statements("postgresql")["settings"].encode(), settings("milepost"))
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {statement}".encode(), asked))
    assert "Seq Scan on webhook_events" not in plan
    assert "webhook_events_by_contact" not in plan, "all events are of one stream"
