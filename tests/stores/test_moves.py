"""An account that moves to another page: its threads keep their ids, and other streams read them."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import pytest
from msgspec.structs import replace

from contracts.store_contract import Tables
from kit.builders import NOON, at, batch, contact, conversation, message, sweep_started
from milepost.core.events import DeadLetterOpened, RunStarted, Stage, SweepCompleted, Tally
from milepost.core.merge import RETURN_AFTER, difference, keys_of, keys_of_rows, newer
from milepost.core.model import Changes, Conversation, DeadLetterPayload, Keys, Platform, Stream
from milepost.core.ports import Committed, Rejected, Store
from milepost.core.position import Gap, GapEnding, HistoriesLeftOut, MessagesOwed, Mode, Stretch
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.stores.commit import Forgotten, Writer
from milepost.stores.open import forget, open_store
from stores.histories import commit_after, contact_row, event_row
from stores.store_dump import StoreDump

OLD, NEW, THIRD, STRANGER = (Stream(Platform.INSTAGRAM, page_id) for page_id in ("1", "2", "3", "9"))


def thread(number: int, person: str | None = None, *, seconds: int = 0, said: tuple[str, ...] = ()) -> Conversation:
    """Return a thread with a person, who has said these things."""
    of = contact(person or f"c_{number}", None, f"person{number}")
    texts = said or (f"said in {number}",)
    messages = [message(f"m_{number}_{text}", at(seconds), text) for text in texts]
    return conversation(f"t_{number}", at(seconds), of=of, messages=messages)


async def read(store: Store, of: Stream, *threads: Conversation, now: datetime = NOON) -> Tally:
    """Store what a stream has read, and complete its sweep with that."""
    known = await store.known(keys_of(of, batch(*threads)))
    found = difference(of, batch(*threads), known, now)
    completed = SweepCompleted(Mode.FULL, now, now, found.tally)
    await store.commit(commit_after(await store.load(of), completed, changes=found.changes, now=now))
    return found.tally


async def rewrite(store: Store, of: Stream, rows: Changes, now: datetime = NOON) -> Tally:
    """Write the rows of a stream's dead letter, as its redrive does."""
    found = newer(rows, await store.known(keys_of_rows(of, rows)), now)
    await store.commit(commit_after(await store.load(of), changes=found.changes, now=now))
    return found.tally


def pages_of(tables: Tables) -> dict[str, set[str]]:
    """Return the pages under which rows of each table stand."""
    return {
        "conversations": {row.page_id for row in tables.conversations.values()},
        "contacts": {row.page_id for row in tables.contacts.values()},
        "messages": {row.page_id for row in tables.interaction_events.values()},
    }


ALL_OF_THE_NEW_PAGE = {"conversations": {"2"}, "contacts": {"2"}, "messages": {"2"}}


class TestMoves:
    async def test_webhooks_follow_the_page_that_reads_what_they_are_about(self, kept: StoreDump) -> None:
        """They may still be taken for the page before, which knows the account until it asks again."""
        unsent = WebhookEvent(OLD, WebhookKind.UNSEND, "m_1_first", None, NOON, "1")
        waiting = WebhookEvent(OLD, WebhookKind.UNSEND, "m_9", None, NOON, "1")
        news = WebhookEvent(OLD, WebhookKind.MESSAGE, "m_new", "c_1", NOON)
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1, said=("first", "second")))
            await read(store, NEW, thread(1, said=("first", "second")), now=at(60))
            await store.webhooks.add([unsent, waiting, news], NOON)
            assert await store.webhooks.claim(NOON) == (OLD, NEW)
            assert await store.webhooks.streams_with_facts() == (NEW,)
            assert await store.due_facts(OLD, 9) == ()
            (due,) = await store.due_facts(NEW, 9)
            assert due.message.event_id == "m_1_first"
            assert await store.webhooks.add([unsent], at(60)) == frozenset(), "a repetition"

    async def test_rows_follow_the_page_that_reads_them(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1, said=("first", "second")), thread(2))

            tally = await read(store, NEW, thread(1, said=("second",)), thread(2), now=at(60))

        tables = kept.tables()
        assert pages_of(tables) == ALL_OF_THE_NEW_PAGE
        assert (len(tables.conversations), len(tables.contacts), len(tables.interaction_events)) == (2, 2, 3)
        assert {row.first_seen_at for row in tables.contacts.values()} == {NOON}
        assert {row.first_synced_at for row in tables.conversations.values()} == {NOON}
        assert (tally.moved, tally.updated, tally.inserted, tally.interaction_events) == (2, 2, 0, 0)

    async def test_a_thread_whose_participants_are_missing_moves_with_its_contact(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1))
            await read(store, NEW, conversation("t_1", at(0)), now=at(60))

        tables = kept.tables()
        assert pages_of(tables) == ALL_OF_THE_NEW_PAGE
        assert [row.username for row in tables.contacts.values()] == ["person1"]

    async def test_messages_and_a_contact_whose_thread_had_no_row_follow_it(self, kept: StoreDump) -> None:
        """The old page could store them, but not the row of their conversation."""
        rows = Changes((), (contact_row("c_1", of=OLD, name=None),), (event_row("m_0", of=OLD),))
        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(await store.load(OLD), changes=rows))

            tally = await read(store, NEW, thread(1), now=at(60))

        tables = kept.tables()
        assert pages_of(tables) == ALL_OF_THE_NEW_PAGE
        assert (tally.inserted, tally.moved, tally.contacts, tally.interaction_events) == (1, 0, 1, 1)
        assert [(row.first_seen_at, row.username) for row in tables.contacts.values()] == [(NOON, "person1")]
        assert await forget(kept.store_url, OLD, "c_1") == Forgotten(1, 1, 2, 0)

    async def test_what_is_owed_of_a_thread_is_known_to_the_page_that_takes_it_over(self, kept: StoreDump) -> None:
        first, second = (Gap(f"g_{number}", f"t_{number}", NOON, at(-1), at(-9), at(-99), "c") for number in (1, 2))
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1), thread(2))
            await read(store, STRANGER, thread(4))
            for of, gaps in ((OLD, (first, second)), (STRANGER, (replace(first, gap_id="g_9"),))):
                await store.commit(commit_after(await store.load(of), MessagesOwed(gaps)))

            before = await store.known(keys_of(NEW, batch(thread(1), thread(3))))
            await read(store, NEW, thread(1), now=at(60))
            after = await store.known(keys_of(NEW, batch(thread(1), thread(3))))
            open_gaps = await store.open_gaps(OLD, 9)

        assert before.owed_elsewhere == (first,)
        assert after.owed_elsewhere == ()
        assert {each.gap.gap_id: each.ending for each in open_gaps} == {"g_1": GapEnding.MOVED, "g_2": None}

    async def test_what_a_page_left_out_of_the_record_is_known_to_the_page_that_takes_over(
        self, kept: StoreDump
    ) -> None:
        left_out = HistoriesLeftOut(at(-90), 60.0)
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1))
            await store.commit(commit_after(await store.load(OLD), MessagesOwed((), left_out)))
            await store.commit(
                commit_after(await store.load(STRANGER), MessagesOwed((), replace(left_out, seconds=1.0)))
            )

            moves = await store.known(keys_of(NEW, batch(thread(1))))
            stays = await store.known(keys_of(OLD, batch(thread(1))))

        assert moves.left_out_elsewhere == (left_out,)
        assert stays.left_out_elsewhere == ()

    async def test_what_two_pages_read_at_once_is_counted_by_one_of_them(self, kept: StoreDump) -> None:
        """The second one has to look again: at a thread that both are the first to read, and at one that moves."""
        async with open_store(kept.store_url) as store:
            for now, threads in ((NOON, [thread(1)]), (at(60), [thread(1, said=("more",)), thread(2)])):
                decided = []
                for of in (OLD, NEW):
                    known = await store.known(keys_of(of, batch(*threads)))
                    found = difference(of, batch(*threads), known, now)
                    prepared = commit_after(await store.load(of), changes=found.changes, now=now)
                    decided.append(replace(prepared, known=known))
                first, second = decided

                assert isinstance(await store.commit(first), Committed)
                assert await store.commit(second) == Rejected(())
                tally = await read(store, NEW, *threads, now=now)

                assert (tally.inserted, tally.interaction_events) == (0, 0)
                together = await asyncio.gather(store.commit(first), store.commit(second), return_exceptions=True)
                assert not any(isinstance(answer, Committed) for answer in together)

        assert pages_of(kept.tables()) == ALL_OF_THE_NEW_PAGE

    async def test_two_pages_that_commit_together_do_not_count_the_same(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            decided = []
            for of in (OLD, NEW):
                known = await store.known(keys_of(of, batch(thread(1))))
                changes = difference(of, batch(thread(1)), known, NOON).changes
                decided.append(replace(commit_after(await store.load(of), changes=changes), known=known))

            answers = await asyncio.gather(*map(store.commit, decided))

        assert {type(answer) for answer in answers} == {Committed, Rejected}

    async def test_a_contact_that_is_redriven_goes_where_its_thread_has_gone(self, kept: StoreDump) -> None:
        """The store had refused its row under the old page; its thread has moved on twice since."""
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1), thread(2))
            await read(store, NEW, thread(1), now=at(60))
            await read(store, THIRD, thread(1), now=at(120))
            before = kept.tables().contacts

            older = await rewrite(store, OLD, Changes(contacts=(contact_row("c_1", of=OLD, updated_at=at(-1)),)))
            newer = await rewrite(store, OLD, Changes(contacts=(contact_row("c_1", of=OLD, updated_at=at(1)),)))
            await rewrite(store, OLD, Changes(contacts=(contact_row("c_2", of=OLD, updated_at=at(1)),)))

        contacts = kept.tables().contacts
        assert (older.contacts, newer.contacts) == (0, 1)
        assert contacts.keys() == before.keys() == {("instagram", "3", "c_1"), ("instagram", "1", "c_2")}
        assert {row.last_interaction_at for row in contacts.values()} == {at(1)}

    async def test_a_contact_stays_with_a_thread_that_has_not_moved_yet(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1, "c_1"), thread(2, "c_1"))
            await read(store, NEW, thread(1, "c_1"), now=at(60))
            assert {key[1] for key in kept.tables().contacts} == {"1", "2"}

            await read(store, NEW, thread(2, "c_1"), now=at(120))

        assert {key[1] for key in kept.tables().contacts} == {"2"}

    async def test_the_old_page_does_not_take_them_back_but_what_it_reads_is_kept(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1))
            await read(store, NEW, thread(1), now=at(60))

            again = await read(store, OLD, thread(1), now=at(120))
            newer = await read(store, OLD, thread(1, seconds=130, said=("more",)), now=at(180))

        tables = kept.tables()
        assert again == Tally(batches=1, unchanged=1)
        assert (newer.moved, newer.updated, newer.interaction_events) == (0, 1, 1)
        assert pages_of(tables) == ALL_OF_THE_NEW_PAGE
        assert len(tables.interaction_events) == 2
        assert [row.last_interaction_at for row in tables.contacts.values()] == [at(130)]

    async def test_they_move_back_once_the_new_page_has_been_silent_for_long(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1))
            await read(store, NEW, thread(1), now=at(60))
            await read(store, NEW, now=at(120))

            soon = await read(store, OLD, thread(1), now=at(119) + RETURN_AFTER)
            late = await read(store, OLD, thread(1), now=at(120) + RETURN_AFTER)
            there = await read(store, NEW, thread(1), now=at(180) + RETURN_AFTER)

        assert (soon.moved, late.moved, there.moved) == (0, 1, 0)
        assert pages_of(kept.tables()) == {"conversations": {"1"}, "contacts": {"1"}, "messages": {"1"}}

    async def test_they_move_back_at_once_where_the_new_page_no_longer_sees_them(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1))
            await read(store, NEW, thread(1), now=at(60))
            everything = Stretch(at(60), None, None, ())
            gone = Changes(missed=everything, missed_are_deleted_at=at(90))
            await store.commit(commit_after(await store.load(NEW), changes=gone, now=at(90)))

            tally = await read(store, OLD, thread(1), now=at(120))

        (row,) = kept.tables().conversations.values()
        assert (tally.moved, row.page_id, row.deleted_at) == (1, "1", None)

    async def test_the_sweep_of_the_old_page_marks_none_of_them_as_deleted(self, kept: StoreDump) -> None:
        """It had missed one already, and misses the other afterwards."""
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1), thread(2))
            sweep = sweep_started(walk_started_at=at(10))
            noted = Changes(missed=Stretch(at(10), None, None, ("t_2",)))
            await store.commit(commit_after(await store.load(OLD), RunStarted(at(10)), sweep, changes=noted))
            await read(store, NEW, thread(1), thread(2), now=at(60))

            everything = Stretch(at(10), None, None, ())
            known = await store.known(Keys(OLD, full_sweep_at=at(10), stretch=everything))
            deleting = Changes(missed=everything, missed_are_deleted_at=at(70))
            await store.commit(commit_after(await store.load(OLD), changes=deleting, now=at(70)))

        assert (known.unseen, known.all_missed) == (0, 0)
        assert [row.deleted_at for row in kept.tables().conversations.values()] == [None, None]

    async def test_forgetting_finds_all_of_a_person_whatever_page_it_stood_under(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1), thread(2, "c_1"), thread(3))
            opened = (
                DeadLetterOpened("d_1", Stage.FETCH, "t_1/messages", "bad"),
                DeadLetterOpened("d_2", Stage.STORE, "contact c_1", "bad"),
                DeadLetterOpened("d_3", Stage.FETCH, "t_3/messages", "bad"),
            )
            payloads = tuple(DeadLetterPayload(each.dead_letter_id, "{}") for each in opened)
            await store.commit(commit_after(await store.load(OLD), *opened, changes=Changes(payloads=payloads)))
            await read(store, NEW, thread(1), thread(3), now=at(60))
            await read(store, THIRD, thread(3), now=at(120))

            forgotten = await forget(kept.store_url, NEW, "c_1")

        # One of the threads had not moved: the contact stood under both pages.
        assert forgotten == Forgotten(contacts=2, conversations=2, interaction_events=2, payloads=2)
        tables = kept.tables()
        assert set(tables.conversations) == {"t_3"}
        assert {row.contact_id for row in tables.contacts.values()} == {"c_3"}
        assert set(tables.payloads) == {"d_3"}

    async def test_who_was_forgotten_before_anything_moved_is_erased_with_the_first_row(self, kept: StoreDump) -> None:
        """Nothing said yet that the new page has the account of the old one."""
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1), thread(2, "c_1"), thread(3))
            opened = DeadLetterOpened("d_1", Stage.STORE, "contact c_1", "bad")
            payload = Changes(payloads=(DeadLetterPayload("d_1", "{}"),))
            await store.commit(commit_after(await store.load(OLD), opened, changes=payload))
            forgotten = await forget(kept.store_url, NEW, "c_1")

            tally = await read(store, NEW, thread(1), now=at(60))

        tables = kept.tables()
        assert forgotten == Forgotten(0, 0, 0, 0, elsewhere=("1",))
        assert tally == Tally(batches=1)
        assert (set(tables.conversations), set(tables.contacts)) == ({"t_3"}, {("instagram", "1", "c_3")})
        assert {row.conversation_id for row in tables.interaction_events.values()} == {"t_3"}
        assert tables.payloads == {}

    async def test_others_that_move_take_along_who_was_forgotten_on_the_new_page(self, kept: StoreDump) -> None:
        """Theirs may be listed much later, or never."""
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1), thread(2))
            await forget(kept.store_url, NEW, "c_1")

            await read(store, NEW, thread(2), now=at(60))

        assert set(kept.tables().conversations) == {"t_2"}

    async def test_all_who_were_forgotten_on_the_new_page_are_erased_at_once(
        self, kept: StoreDump, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The rows of a page are read once, not once for each of hundreds, as the commit has only a minute."""
        erasures: list[tuple[str, ...]] = []
        erase = Writer.erase

        async def noted(writer: Writer, stream: Stream, contact_ids: Sequence[str]) -> Forgotten:
            erasures.append(tuple(sorted(contact_ids)))
            return await erase(writer, stream, contact_ids)

        async with open_store(kept.store_url) as store:
            await read(store, OLD, *map(thread, (1, 2, 3, 4)))
            for contact_id in ("c_1", "c_2"):
                await forget(kept.store_url, NEW, contact_id)
            monkeypatch.setattr(Writer, "erase", noted)

            await read(store, NEW, thread(3), now=at(60))

        assert erasures == [("c_1", "c_2")]
        tables = kept.tables()
        assert set(tables.conversations) == {"t_3", "t_4"}
        assert {row.conversation_id for row in tables.interaction_events.values()} == {"t_3", "t_4"}
        assert {row.contact_id for row in tables.contacts.values()} == {"c_3", "c_4"}

    async def test_who_was_forgotten_stays_so_on_the_next_page(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1), thread(2))
            await forget(kept.store_url, OLD, "c_1")

            await read(store, NEW, thread(1), thread(2), thread(6, "c_1"), now=at(60))
            await read(store, NEW, thread(1), thread(7, "c_1"), now=at(120))

        assert set(kept.tables().conversations) == {"t_2"}

    async def test_a_person_of_another_page_with_the_same_id_is_somebody_else(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await read(store, OLD, thread(1))
            await read(store, STRANGER, thread(4, "c_1"))
            await read(store, NEW, thread(1), now=at(60))

            await forget(kept.store_url, NEW, "c_1")
            await read(store, STRANGER, thread(5, "c_1"), now=at(120))

        assert set(kept.tables().conversations) == {"t_4", "t_5"}
