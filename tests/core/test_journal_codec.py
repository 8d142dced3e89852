"""journal.Codec: events encoded and decoded, in every format there has been."""

from collections.abc import Mapping
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.builders import NOON, walking
from kit.event_strategies import BY_TYPE, events
from milepost.core.errors import JournalDamaged
from milepost.core.events import TAGS, BatchShrunk, BatchStored, Event, RunStarted, SweepStarted, Tally
from milepost.core.journal import Codec, Upcast
from milepost.core.model import Detail
from milepost.core.position import Mode
from milepost.core.problems import Problem, ProblemKind

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
    @settings(derandomize=True, deadline=None, max_examples=1000)
    @given(events)
    def test_encoding_and_decoding_yields_the_same_event(self, event: Event) -> None:
        tag, data = Codec().encode(event)

        assert tag == TAGS[type(event)]
        assert Codec().decode(tag, data) == event

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(events)
    def test_encoding_a_decoded_event_yields_the_same_event(self, event: Event) -> None:
        codec = Codec()
        tag, data = codec.encode(event)

        assert codec.decode(*codec.encode(codec.decode(tag, data))) == event

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
