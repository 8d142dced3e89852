"""journal.seal and journal.check_link: no entry can be changed, removed or moved unnoticed."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.builders import CODEC, NOON, STREAM, at, checkpoint_of, entries, run_started, sweep_started, walking
from kit.event_strategies import events
from milepost.core.errors import JournalDamaged
from milepost.core.events import BatchStored, Entry, Event, SweepCompleted, Tally
from milepost.core.evolve import evolve
from milepost.core.journal import check_link, instant_text, link, seal
from milepost.core.model import Stream
from milepost.core.position import Mode

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

    @settings(derandomize=True, deadline=None, max_examples=100)
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
