"""Facts are applied by the task that works the stream: without a call, whatever the stream waits for."""

import asyncio

from kit.builders import STREAM, at, contact, conversation, fetched, message
from kit.engine_doubles import Inbox, engine, running, types
from kit.memory_store import MemoryStore
from milepost.core.commands import ApplyFacts, PauseStream
from milepost.core.facts import Edited, detail_of
from milepost.core.ports import Outcome, Request
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.engine.context import EngineContext
from milepost.engine.supervisor import Schedule, Supervisor


def supervisor(parts: EngineContext, inbox: Inbox) -> Supervisor:
    return Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=1000))


def edit(seconds: float, text: str) -> WebhookEvent:
    said = detail_of(Edited(text))
    return WebhookEvent(STREAM, WebhookKind.EDIT, "m_1", "c_1", at(seconds), str(seconds), detail=said)


async def one_message(_: Request | str) -> Outcome:
    """Answer with a conversation of one message, asked for at the minute."""
    return fetched(conversation(of=contact(), messages=[message("m_1", at(0), "hello")]), asked_at=at(60))


async def test_facts_of_a_paused_stream_are_applied_without_a_call_and_of_one_without_facts_nothing_is_written() -> (
    None
):
    parts = engine(store := MemoryStore())
    inbox = Inbox(1, clock=parts.clock, before=one_message)
    async with running(one := supervisor(parts, inbox), parts.stop):
        await asyncio.sleep(10)
        await one.ask(STREAM, PauseStream("ada"))
        calls, entries = len(inbox.called_at), len(store.journal)
        await one.ask(STREAM, ApplyFacts())
        assert len(store.journal) == entries
        store.add_fact(edit(90, "hallo"))
        store.add_fact(edit(80, "hello!"))
        await one.ask(STREAM, ApplyFacts())
        assert len(inbox.called_at) == calls
    assert types(store, STREAM)[entries:] == ["facts_applied"]
    assert store.interaction_events["m_1"].text == "hallo"
    assert store.waiting_facts == {}


async def test_more_facts_than_a_commit_takes_are_applied_in_several() -> None:
    parts = engine(store := MemoryStore())
    async with running(one := supervisor(parts, Inbox(1, clock=parts.clock, before=one_message)), parts.stop):
        await asyncio.sleep(10)
        for number in range(450):
            store.add_fact(edit(90 + number, f"text {number}"))
        await one.ask(STREAM, ApplyFacts())
    assert types(store, STREAM).count("facts_applied") == 3
    assert store.interaction_events["m_1"].text == "text 449"


async def test_a_message_that_was_read_after_an_edit_and_has_another_text_is_read_again() -> None:
    parts = engine(store := MemoryStore())
    inbox = Inbox(1, clock=parts.clock, before=one_message)
    async with running(one := supervisor(parts, inbox), parts.stop):
        await asyncio.sleep(10)
        calls = len(inbox.called_at)
        store.add_fact(edit(30, "hallo"))
        await one.ask(STREAM, ApplyFacts())
        assert store.interaction_events["m_1"].text == "hello"
        await asyncio.sleep(10)
        assert len(inbox.called_at) == calls + 1
