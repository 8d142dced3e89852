"""The journal: no entry can be changed, removed or moved unnoticed; events are encoded, and decoded in every format."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.builders import CODEC, NOON, STREAM, at, checkpoint_of, entries, run_started, sweep_started, walking
from kit.event_strategies import BY_TYPE, events
from kit.needs import long_only
from milepost.core.errors import JournalDamaged
from milepost.core.events import (
    TAGS,
    BatchShrunk,
    BatchStored,
    Entry,
    Event,
    RunStarted,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.core.evolve import evolve
from milepost.core.journal import Codec, Upcast, check_link, instant_text, link, seal
from milepost.core.model import Detail, Stream
from milepost.core.position import Mode
from milepost.core.problems import Problem, ProblemKind

JOURNAL = entries(
    run_started(),
    sweep_started(),
    BatchStored(walking("x"), Tally(batches=1)),
    SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)),
)


def verify(journal: Sequence[Entry]) -> None:
    checkpoint = checkpoint_of()
    for entry in journal:
        check_link(checkpoint, entry)
        checkpoint = evolve(checkpoint, entry)


class TestSeal:
    def test_sealing_numbers_the_entries_from_the_checkpoint_on(self) -> None:
        before = checkpoint_of()
        for entry in JOURNAL:
            before = evolve(before, entry)

        (fifth,) = seal(before, [run_started()], "run-2", at(9), CODEC)

        assert [entry.version for entry in JOURNAL] == [1, 2, 3, 4]
        assert (fifth.version, fifth.stream, fifth.run_id, fifth.type) == (5, STREAM, "run-2", "run_started")
        verify((*JOURNAL, fifth))

    def test_sealing_keeps_the_stored_precision_of_the_time(self) -> None:
        (entry,) = entries(run_started(), recorded_at=NOON.replace(microsecond=999_999))

        assert entry.recorded_at == NOON.replace(microsecond=999_000)
        assert instant_text(entry.recorded_at) == "2026-03-01T12:00:00.999Z"

    def test_sealing_yields_the_documented_hash(self) -> None:
        """Anyone can compute the hash with `sha256sum`; it never changes."""
        columns = ("messenger:1", 1, None, "2026-03-01T12:00:00.000Z", "store_returned", "{}")

        assert link("", columns) == "fb7e4bda86b88b1c6b35f0f2a36275fa70535c66747d03f47271f92f0018478d"


class TestCheckLink:
    def test_the_check_accepts_sealed_entries(self) -> None:
        verify(JOURNAL)

    @settings(derandomize=True, deadline=None, max_examples=50)
    @given(st.lists(events, min_size=1, max_size=5), st.none() | st.text())
    def test_the_check_accepts_any_sealed_events(self, drawn: list[Event], run_id: str | None) -> None:
        verify(seal(checkpoint_of(), drawn, run_id, NOON, CODEC))

    @pytest.mark.parametrize("index", range(len(JOURNAL)))
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda entry: replace(entry, stream=Stream.parse("messenger:2")), id="stream"),
            pytest.param(lambda entry: replace(entry, version=entry.version + 1), id="version"),
            pytest.param(lambda entry: replace(entry, run_id="run-2"), id="run_id"),
            pytest.param(lambda entry: replace(entry, run_id=None), id="run_id removed"),
            pytest.param(lambda entry: replace(entry, recorded_at=at(0.001)), id="recorded_at"),
            pytest.param(lambda entry: replace(entry, type="store_returned"), id="type"),
            pytest.param(lambda entry: replace(entry, data=entry.data + " "), id="data"),
            pytest.param(lambda entry: replace(entry, hash="0" * 64), id="hash"),
        ],
    )
    def test_the_check_finds_a_changed_column(self, index: int, change: Callable[[Entry], Entry]) -> None:
        journal = [*JOURNAL]
        journal[index] = change(journal[index])

        with pytest.raises(JournalDamaged, match="entry"):
            verify(journal)

    @pytest.mark.parametrize("index", range(len(JOURNAL) - 1))
    def test_the_check_finds_a_removed_entry(self, index: int) -> None:
        with pytest.raises(JournalDamaged, match="entries are missing"):
            verify([*JOURNAL[:index], *JOURNAL[index + 1 :]])

    def test_the_check_finds_a_removed_entry_even_after_renumbering(self) -> None:
        renumbered = [replace(entry, version=entry.version - 1) for entry in JOURNAL[2:]]

        with pytest.raises(JournalDamaged, match=r"entry 2 .* its hash"):
            verify([JOURNAL[0], *renumbered])

    def test_the_check_finds_reordered_entries(self) -> None:
        first, second, third, fourth = JOURNAL

        with pytest.raises(JournalDamaged):
            verify([first, third, second, fourth])
        with pytest.raises(JournalDamaged):
            verify([first, replace(third, version=2), replace(second, version=3), fourth])

    def test_the_check_finds_a_resealed_entry_by_its_successor(self) -> None:
        """Whoever changes an entry has to seal all later ones again: the last hash is the one to keep elsewhere."""
        first = entries(run_started(at(1)))

        with pytest.raises(JournalDamaged, match=r"entry 2 .* its hash"):
            verify([*first, *JOURNAL[1:]])

    def test_the_check_finds_a_duplicate_entry(self) -> None:
        with pytest.raises(JournalDamaged, match="follows version 1"):
            verify([JOURNAL[0], *JOURNAL])


class TestInstants:
    def test_instants_are_written_in_utc_with_milliseconds_whatever_their_zone(self) -> None:
        paris = timezone(timedelta(hours=2))

        assert instant_text(datetime(2026, 3, 1, 14, 0, 0, 1999, tzinfo=paris)) == "2026-03-01T12:00:00.001Z"

    @settings(derandomize=True, deadline=None)
    @given(*[st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))] * 2)  # noqa: DTZ001
    def test_instants_sort_as_text_and_read_back(self, one: datetime, other: datetime) -> None:
        one, other = (each.replace(microsecond=each.microsecond // 1000 * 1000) for each in (one, other))

        assert (instant_text(one) < instant_text(other)) == (one < other)
        assert datetime.fromisoformat(instant_text(one)) == one


# --- codec ------------------------------------------------------------------------------------------------------------


STORED = '{"position":{"cursor":"x"},"tally":{"batches":1}}'


class TestTags:
    def test_tags_cover_every_type_of_event(self) -> None:
        assert set(TAGS) == set(get_args(Event))
        assert set(BY_TYPE) == set(get_args(Event)), "kit.event_strategies draws every type"

    def test_tags_are_distinct_and_never_change(self) -> None:
        assert sorted(TAGS.values()) == [
            "batch_failed",
            "batch_shrunk",
            "batch_stored",
            "cursor_lost",
            "dead_letter_closed",
            "dead_letter_opened",
            "facts_applied",
            "fetch_failed",
            "fields_left_out",
            "messages_failed",
            "messages_missed",
            "messages_owed",
            "messages_read",
            "own_id_checked",
            "rate_limited",
            "redrive_failed",
            "run_ended",
            "run_started",
            "store_returned",
            "stream_paused",
            "stream_removed",
            "stream_resumed",
            "sweep_completed",
            "sweep_started",
            "sync_requested",
            "token_checked",
        ]

    def test_events_refuse_unknown_fields(self) -> None:
        for kind in TAGS:
            assert kind.__struct_config__.forbid_unknown_fields, kind


class TestEncoding:
    @pytest.mark.parametrize("examples", [300, *long_only(2_000)])
    def test_encoding_and_decoding_yields_the_same_event(self, examples: int) -> None:
        @settings(deadline=None, max_examples=examples)
        @given(events)
        def yields_the_same(event: Event) -> None:
            codec = Codec()
            tag, data = codec.encode(event)

            assert tag == TAGS[type(event)]
            assert codec.decode(tag, data) == event

        yields_the_same()

    def test_encoding_leaves_defaults_out(self) -> None:
        assert Codec().encode(BatchStored(walking("x"), Tally(batches=1))) == ("batch_stored", STORED)

    def test_entries_older_than_suspects_are_decoded(self) -> None:
        problem = Problem(ProblemKind.API, "an unknown error", code=1)
        shrunk = '{"limit":5,"detail":"nested","problem":{"kind":"api","message":"an unknown error","code":1}}'

        assert Codec().decode("batch_shrunk", shrunk) == BatchShrunk(5, Detail.NESTED, problem)
        assert Codec().encode(BatchShrunk(5, Detail.NESTED, problem)) == ("batch_shrunk", shrunk)

    def test_an_entry_with_the_old_word_for_an_invalid_response_is_decoded(self) -> None:
        problem = Problem(ProblemKind.INVALID_RESPONSE, "a page of HTML", http_status=502)
        old = '{"limit":5,"detail":"nested","problem":{"kind":"nonsense","message":"a page of HTML","http_status":502}}'

        assert Codec().decode("batch_shrunk", old) == BatchShrunk(5, Detail.NESTED, problem)

    def test_an_entry_older_than_batch_numbers_is_decoded(self) -> None:
        assert Codec().decode("batch_stored", STORED) == BatchStored(walking("x"), Tally(batches=1), batch=0)

    def test_encoding_keeps_instants_to_the_microsecond(self) -> None:
        instant = NOON.replace(microsecond=123_456)

        assert Codec().encode(RunStarted(instant)) == ("run_started", '{"started_at":"2026-03-01T12:00:00.123456Z"}')
        assert Codec().decode(*Codec().encode(RunStarted(instant))) == RunStarted(instant)


class TestDamage:
    @pytest.mark.parametrize(
        ("tag", "data"),
        [
            pytest.param("batch_eaten", "{}", id="an unknown tag"),
            pytest.param("batch_stored", STORED[:-1] + ',"more":1}', id="an unknown field"),
            pytest.param("batch_stored", '{"tally":{}}', id="a field missing"),
            pytest.param("batch_stored", '{"position":{},"tally":{"batches":"1"}}', id="a wrong type"),
            pytest.param("run_ended", '{"status":"lost","reason":"shutdown"}', id="an unknown status"),
            pytest.param("batch_stored", STORED[:-1], id="cut short"),
            pytest.param("batch_stored", "", id="nothing"),
            pytest.param("batch_stored", "[]", id="no object"),
            pytest.param("batch_stored", "null", id="null"),
            pytest.param("batch_stored", '{"v":2,' + STORED[1:], id="a newer format"),
            pytest.param("batch_stored", '{"v":0,' + STORED[1:], id="a format below the first"),
            pytest.param("batch_stored", '{"v":"2",' + STORED[1:], id="a format that is not a number"),
            pytest.param("run_started", '{"started_at":"noon"}', id="no instant"),
        ],
    )
    def test_damage_is_reported(self, tag: str, data: str) -> None:
        with pytest.raises(JournalDamaged, match=tag) as raised:
            Codec().decode(tag, data)

        assert raised.value.hint

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(tag=st.sampled_from(sorted(TAGS.values())), data=st.text())
    def test_damage_of_any_form_is_reported(self, tag: str, data: str) -> None:
        with pytest.raises(JournalDamaged):
            Codec().decode(tag, data)

    def test_a_text_that_looks_like_a_format_is_no_damage(self) -> None:
        event = BatchStored(walking('{"v":2}'), Tally())

        assert Codec().decode(*Codec().encode(event)) == event


class TestUpcasts:
    """As if `sweep_started` had once called its mode `kind`, and later had no catch-up scan."""

    @staticmethod
    def kind_to_mode(fields: dict[str, Any]) -> dict[str, Any]:
        return {**{key: value for key, value in fields.items() if key != "kind"}, "mode": fields["kind"]}

    @staticmethod
    def without_to_with_catch_up(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "catch_up_until": fields["walk_started_at"]}

    @pytest.fixture
    def codec(self) -> Codec:
        upcasts: Mapping[str, tuple[Upcast, ...]] = {
            "sweep_started": (self.kind_to_mode, self.without_to_with_catch_up)
        }
        return Codec(upcasts)

    @pytest.mark.parametrize(
        "data",
        [
            '{"kind":"full","walk_started_at":"2026-03-01T12:00:00Z"}',
            '{"v":1,"kind":"full","walk_started_at":"2026-03-01T12:00:00Z"}',
            '{"v":2,"mode":"full","walk_started_at":"2026-03-01T12:00:00Z"}',
            '{"v":3,"mode":"full","walk_started_at":"2026-03-01T12:00:00Z","catch_up_until":"2026-03-01T12:00:00Z"}',
        ],
    )
    def test_upcasts_convert_every_earlier_format_to_this_one(self, codec: Codec, data: str) -> None:
        assert codec.decode("sweep_started", data) == SweepStarted(Mode.FULL, NOON, NOON)

    def test_upcasts_mark_new_entries_with_their_format(self, codec: Codec) -> None:
        event = SweepStarted(Mode.INCREMENTAL, NOON, NOON, NOON)

        tag, data = codec.encode(event)

        assert msgspec.json.decode(data)["v"] == 3
        assert codec.decode(tag, data) == event

    def test_upcasts_leave_other_events_alone(self, codec: Codec) -> None:
        assert codec.encode(RunStarted(NOON)) == Codec().encode(RunStarted(NOON))

    def test_upcasts_do_not_excuse_damage(self, codec: Codec) -> None:
        with pytest.raises(JournalDamaged):
            codec.decode("sweep_started", '{"v":4,"mode":"full"}')
        with pytest.raises(JournalDamaged):
            codec.decode("sweep_started", '{"v":3,"mode":"full","more":1}')
