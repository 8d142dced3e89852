"""The simulated world: the same for the same plan and time, and as odd as the real one."""

import unicodedata
from datetime import UTC, datetime, timedelta
from itertools import islice
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from milepost.core.errors import BadConfiguration
from milepost.simulator.inbox import Inbox, is_invented
from milepost.simulator.nodes import Message, message_node
from milepost.simulator.plan import PLATFORMS, Arrivals, SimulatedPage, WorldPlan, instant_us
from milepost.simulator.requests import Link, parse_fields
from milepost.simulator.world import TrueConversation, World

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
PLAN = WorldPlan(seed=7, pages=1, conversations=120, messages_per_conversation=4, arrivals_per_minute=1)


def truth(world: World, at: datetime = NOON) -> tuple[TrueConversation, ...]:
    return world.truth(world.pages[0].id, "messenger", at)


@pytest.fixture
def world() -> World:
    return World(PLAN)


@pytest.fixture
def inbox(world: World) -> Inbox:
    found = world.inbox(world.pages[0].id, "messenger")
    assert found is not None
    return found


class TestArrivals:
    @given(seed=st.integers(0, 2**64 - 1), conversations=st.integers(1, 30), latest=st.integers(-500, 500))
    def test_the_formula_agrees_with_dealing_every_slot_by_hand(
        self, seed: int, conversations: int, latest: int
    ) -> None:
        arrivals = Arrivals(seed=seed, conversations=conversations, gap_us=1000, anchor_us=0, end_at_anchor=False)
        by_hand: dict[int, int] = {}
        for slot in range(latest - 3 * conversations, latest + 1):
            round_ = slot // conversations
            for conversation in range(conversations):
                if arrivals.slot_in_round(conversation, round_) == slot:
                    by_hand[conversation] = slot
        newest_first = sorted(((slot, conversation) for conversation, slot in by_hand.items()), reverse=True)

        assert list(arrivals.newest_slots(latest, start=latest)) == newest_first
        assert len(newest_first) == conversations
        assert {c: arrivals.newest_slot_of(c, latest) for c in range(conversations)} == by_hand

    @given(seed=st.integers(0, 2**64 - 1), gap_us=st.integers(1, 10**9), at_us=st.integers(-(10**15), 10**15))
    def test_the_newest_slot_at_an_instant_has_arrived_and_the_next_has_not(
        self, seed: int, gap_us: int, at_us: int
    ) -> None:
        arrivals = Arrivals(seed=seed, conversations=5, gap_us=gap_us, anchor_us=0, end_at_anchor=False)
        slot = arrivals.slot_at(at_us)
        assert arrivals.instant_of(slot) <= at_us < arrivals.instant_of(slot + 1)


class TestLongThreads:
    def test_one_in_a_hundred_is_long_and_the_others_are_as_they_were(self) -> None:
        plan = WorldPlan(seed=7, pages=1, conversations=400, arrivals_per_minute=0)
        before, after = truth(World(plan)), truth(World(replace(plan, longest_thread=3000)))
        grown = {row.id for row, other in zip(after, before, strict=True) if row.message_count != other.message_count}

        assert [row.id for row in before] == [row.id for row in after]
        assert 1 <= len(grown) <= 20
        assert max(row.message_count for row in after) > 500

    def test_all_of_its_messages_can_be_read(self) -> None:
        world = World(WorldPlan(seed=7, pages=1, conversations=400, arrivals_per_minute=0, longest_thread=3000))
        inbox = world.inboxes[0]
        longest = max(inbox.threads(instant_us(NOON)), key=lambda thread: thread.message_count)
        messages = inbox.messages(longest, instant_us(NOON))

        assert len({each.id for each in messages}) == longest.message_count > 500
        assert list(messages) == sorted(messages, key=lambda each: each.at_us, reverse=True)


class TestPurity:
    def test_a_restarted_world_is_the_same_world(self) -> None:
        assert truth(World(PLAN)) == truth(World(PLAN))

    def test_reading_a_world_does_not_change_it(self, world: World) -> None:
        for minute in range(0, 60, 7):
            truth(world, NOON + timedelta(minutes=minute))
        assert truth(world, LATER) == truth(World(PLAN), LATER)

    def test_another_seed_is_another_world(self) -> None:
        other = World(WorldPlan(seed=8, pages=1, conversations=120))
        assert not {row.id for row in truth(World(PLAN))} & {row.id for row in truth(other)}

    def test_as_time_passes_only_threads_with_new_messages_change(self, world: World) -> None:
        before = {row.id: row for row in truth(world)}
        after = truth(world, LATER)
        moved = [row for row in after if row.updated_time > NOON]
        assert len(moved) in (59, 60, 61)
        assert all(row == before[row.id] for row in after[len(moved) :])
        for row in moved:
            kept = row.message_ids[1:]
            assert kept == before[row.id].message_ids[: len(kept)]

    def test_a_frozen_world_stands_still(self) -> None:
        frozen = World(WorldPlan(pages=1, conversations=50, arrivals_per_minute=0, frozen_at=NOON))
        assert truth(frozen, NOON) == truth(frozen, NOON + timedelta(days=400))
        assert max(row.updated_time for row in truth(frozen, LATER)) <= NOON


class TestShape:
    def test_every_thread_is_there_once_newest_first(self, world: World) -> None:
        rows = truth(world)
        assert len({row.id for row in rows}) == len(rows) == 120
        assert [row.updated_time for row in rows] == sorted((row.updated_time for row in rows), reverse=True)
        assert rows[0].updated_time <= NOON

    def test_message_ids_are_unique_and_the_newest_are_at_most_twenty(self) -> None:
        rows = truth(World(WorldPlan(pages=1, conversations=300, messages_per_conversation=15)))
        ids = [message_id for row in rows for message_id in row.message_ids]
        assert len(set(ids)) == len(ids)
        assert all(len(row.message_ids) == min(row.message_count, 20) for row in rows)
        assert any(row.message_count > 20 for row in rows)

    @pytest.mark.parametrize("average", [1, 4.5, 20])
    def test_threads_have_as_many_messages_as_planned_on_average(self, average: float) -> None:
        rows = truth(World(WorldPlan(pages=1, conversations=5000, messages_per_conversation=average)))
        assert mean(row.message_count for row in rows) == pytest.approx(average, rel=0.06)

    def test_ids_look_like_the_platforms_own(self, world: World) -> None:
        page = world.pages[0]
        assert int(page.id) > 2**53
        messenger, instagram = truth(world)[0], world.truth(page.id, "instagram", NOON)[0]
        assert messenger.id.startswith("t_")
        assert messenger.message_ids[0].startswith("m_")
        assert int(messenger.contact_id or "0") > 2**53
        assert 100 <= len(instagram.id) <= 120
        assert 100 <= len(instagram.message_ids[0]) <= 120

    def test_no_contact_is_on_two_pages_or_platforms(self) -> None:
        world = World(WorldPlan(pages=3, conversations=200))
        contacts = [
            row.contact_id
            for inbox in world.inboxes
            for row in world.truth(inbox.page.id, inbox.platform, NOON)
            if row.contact_id
        ]
        assert len(set(contacts)) == len(contacts)

    def test_a_few_conversations_lack_their_participants(self) -> None:
        rows = truth(World(WorldPlan(pages=1, conversations=1000)))
        assert 5 <= sum(row.contact_id is None for row in rows) <= 50

    def test_texts_contain_what_breaks_careless_programs(self) -> None:
        world = World(WorldPlan(pages=1, conversations=2000, messages_per_conversation=3))
        messages = [
            Message(thread, moment)
            for inbox in world.inboxes
            for thread in inbox.threads(instant_us(NOON))
            for moment in thread.newest
        ]
        texts = [message.text for message in messages]
        everything = "".join(filter(None, texts)) + "".join(message.thread.contact.name for message in messages)
        assert "\0" in everything
        assert None in texts
        assert "" in texts
        assert {unicodedata.bidirectional(sign) for sign in set(everything)} >= {"R", "AL", "NSM", "L"}
        assert any(ord(sign) > 0xFFFF for sign in everything)
        kinds = {message.kind for message in messages}
        assert kinds >= {"text", "image", "video", "file", "sticker", "share", "story_reply", "withheld", "unsupported"}

    def test_attachments_have_signed_urls_and_sometimes_no_size(self) -> None:
        world = World(WorldPlan(pages=1, conversations=2000))
        link = Link("https://graph.example", "v26.0", "tok")
        threads = world.inboxes[0].threads(instant_us(NOON))
        fields = parse_fields("attachments,message")
        nodes = [message_node(Message(thread, thread.newest[0]), fields, link) for thread in threads]
        files = [node["attachments"]["data"][0] for node in nodes if isinstance(node.get("attachments"), dict)]  # type: ignore[index]  # a node is untyped JSON
        assert {type(file.get("size")) for file in files if "size" in file} == {int, type(None)}
        assert any("&oh=" in str(file) for file in files)
        assert any("message" not in node for node in nodes)


class TestWalking:
    def test_continuing_from_any_row_returns_the_rest(self, inbox: Inbox) -> None:
        threads = list(inbox.threads(instant_us(NOON)))
        for place in (0, 17, 118, 119):
            rest = list(inbox.threads(instant_us(NOON), threads[place].position))
            assert [thread.id for thread in rest] == [thread.id for thread in threads[place + 1 :]]

    def test_a_thread_is_found_by_its_id_and_no_other_text_finds_one(self, world: World) -> None:
        for inbox in world.inboxes:
            for thread in islice(inbox.threads(instant_us(NOON)), 20):
                assert world.find(thread.id, NOON) == thread
        for text in ("", "t_", "t_1", "t_²", "t_" + "9" * 19, "me", "aWdfZAG0"):
            assert world.find(text, NOON) is None


class TestByHand:
    def test_a_received_message_moves_its_thread_to_the_head(self, world: World) -> None:
        last = truth(world)[-1]
        assert world.receive(world.pages[0].id, "messenger", LATER, last.id) == last.id
        assert truth(world)[-1] == last
        head = world.truth(world.pages[0].id, "messenger", LATER)
        moved = next(row for row in head if row.id == last.id)
        assert moved.updated_time == LATER
        assert moved.message_count > 1
        assert len(head) == 120

    def test_a_message_can_come_from_a_new_contact(self, world: World) -> None:
        conversation_id = world.receive(world.pages[0].id, "instagram", NOON)
        rows = world.truth(world.pages[0].id, "instagram", NOON)
        assert rows[0].id == conversation_id
        assert rows[0].message_count == 1
        assert len(rows) == 121
        assert world.find(conversation_id, NOON) is not None
        assert world.find(conversation_id, NOON - timedelta(seconds=1)) is None

    def test_threads_with_received_messages_keep_the_order(self, world: World) -> None:
        rows = truth(world)
        for place in (5, 50, 100):
            world.receive(world.pages[0].id, "messenger", NOON - timedelta(minutes=place), rows[110].id)
            world.receive(world.pages[0].id, "messenger", NOON - timedelta(days=place), rows[2].id)
            world.receive(world.pages[0].id, "messenger", NOON - timedelta(minutes=place))
        again = truth(world)
        assert [row.updated_time for row in again] == sorted((row.updated_time for row in again), reverse=True)
        assert len({row.id for row in again}) == len(again) == 123
        for inbox in world.inboxes:
            for thread in inbox.threads(instant_us(NOON)):
                times = [moment.at_us for moment in thread.newest]
                assert times == sorted(times, reverse=True)

    def test_a_deleted_conversation_leaves_no_trace(self, world: World) -> None:
        victim = truth(world)[60]
        world.delete(victim.id)
        assert victim.id not in {row.id for row in truth(world)}
        assert victim.id not in {row.id for row in truth(world, NOON + timedelta(days=1))}
        assert world.find(victim.id, NOON) is None

    def test_an_unknown_conversation_cannot_be_deleted_or_written_to(self, world: World) -> None:
        with pytest.raises(KeyError):
            world.delete("t_123")
        with pytest.raises(KeyError):
            world.receive(world.pages[0].id, "messenger", NOON, "t_123")


class TestPlan:
    @pytest.mark.parametrize(
        "numbers",
        [{"pages": -1}, {"conversations": -1}, {"messages_per_conversation": 0.5}, {"arrivals_per_minute": -2}],
    )
    def test_impossible_numbers_are_refused(self, numbers: dict[str, int]) -> None:
        with pytest.raises(BadConfiguration, match=next(iter(numbers))):
            WorldPlan(**numbers)  # type: ignore[arg-type]  # the names vary

    def test_an_instant_without_a_time_zone_is_refused(self) -> None:
        with pytest.raises(BadConfiguration, match="time zone"):
            WorldPlan(frozen_at=datetime(2026, 1, 1))  # noqa: DTZ001  the defect that is looked for

    def test_an_inbox_may_be_empty(self) -> None:
        assert truth(World(WorldPlan(pages=1, conversations=0))) == ()

    def test_pages_can_be_named(self) -> None:
        page = SimulatedPage(id="12345678901234567", name="Mine", token="secret-token", platforms=("instagram",))
        world = World(WorldPlan(pages=(page,)))
        assert [(inbox.page.id, inbox.platform) for inbox in world.inboxes] == [(page.id, "instagram")]
        assert world.pages[0].token == "secret-token"
        assert int(world.pages[0].instagram_account_id or "0") > 2**53

    def test_two_pages_with_the_same_id_are_refused(self) -> None:
        page = SimulatedPage(id="1", name="Mine", token="a")
        with pytest.raises(BadConfiguration, match="same id"):
            World(WorldPlan(pages=(page, page)))

    def test_no_repr_shows_a_token(self, world: World) -> None:
        assert world.pages[0].token not in repr(world.pages)
        assert "tok-1" not in repr(Link("https://graph.example", "v26.0", "tok-1"))


# --- invented conversations are recognized ----------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.from_regex(r"[1-9][0-9]{5,16}", fullmatch=True))
def test_an_invented_conversation_is_recognized_by_its_seed_on_any_page(seed: int, page_id: str) -> None:
    world = World(WorldPlan(seed=seed, pages=(SimulatedPage(id=page_id, name="", token="x"),), conversations=3))
    for platform in PLATFORMS:
        world.receive(page_id, platform, NOON)
        conversations = world.truth(page_id, platform, LATER)
        assert len(conversations) == 4
        assert all(is_invented(each.id, page_id, platform, seed) for each in conversations)
        assert not any(is_invented(each.id, page_id, platform, seed + 1) for each in conversations)
        assert not any(is_invented(each.id, f"{page_id}1", platform, seed) for each in conversations)


@given(st.one_of(st.text(), st.integers(0, 10**20).map("t_{}".format), st.from_regex(r"aWdf[A-Za-z0-9_-]*")))
def test_no_other_id_is_mistaken_for_an_invented_one(conversation_id: str) -> None:
    assert not any(is_invented(conversation_id, "1234567890", platform) for platform in PLATFORMS)
