"""What the participants say about our own id, from a batch to the checkpoint and the next request."""

from msgspec.structs import replace

from kit.builders import NOON, at, budget, checkpoint_of, context, conversation, fetched, given
from kit.decisions import NEW, decision_on, events, knowing, walking
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.events import OwnIdChecked, SweepCompleted, Tally
from milepost.core.model import OwnId, OwnIdState
from milepost.core.plan import Fetch, Policy, next_mode, plan
from milepost.core.ports import Fetched
from milepost.core.position import Mode
from milepost.core.records import Record

EXPECTED, UNKNOWN = OwnId(OwnIdState.EXPECTED), OwnId(OwnIdState.UNKNOWN)
ANOTHER = OwnId(OwnIdState.ANOTHER, "17841")
COMPLETE = SweepCompleted(Mode.FULL, NOON, NOON, NEW)


def saying(own_id: OwnId | None, *, next_cursor: str | None = "after 2") -> Fetched:
    """Return a batch of a thread that is stored already."""
    answer = fetched(conversation("t_1"), next_cursor=next_cursor)
    return replace(answer, batch=replace(answer.batch, own_id=own_id))


def told(checkpoint: Checkpoint, answer: Fetched) -> list[OwnId]:
    decision = decision_on(checkpoint, answer, context(), knowing(conversation("t_1")))
    if isinstance(decision, BatchUnchanged):
        return []
    return [event.found for event in events(decision) if isinstance(event, OwnIdChecked)]


class TestNews:
    def test_an_id_that_differs_from_the_record_is_recorded_although_nothing_else_is_new(self) -> None:
        for own_id in (ANOTHER, UNKNOWN):
            assert told(walking(), saying(own_id)) == [own_id]
            assert told(walking(), saying(own_id, next_cursor=None)) == [own_id]

    def test_an_id_that_is_on_record_or_as_expected_is_not_recorded(self) -> None:
        assert told(walking(), saying(EXPECTED)) == []
        assert told(walking(), saying(None)) == []
        assert told(given(OwnIdChecked(ANOTHER), after=walking()), saying(ANOTHER)) == []
        assert told(given(OwnIdChecked(ANOTHER), after=walking()), saying(None)) == []

    def test_the_return_to_the_expected_id_is_recorded(self) -> None:
        assert told(given(OwnIdChecked(UNKNOWN), after=walking()), saying(EXPECTED)) == [EXPECTED]

    def test_a_sweep_of_one_batch_records_the_id_with_its_run(self) -> None:
        decision = decision_on(checkpoint_of(), saying(ANOTHER, next_cursor=None), context())

        assert [type(event).__name__ for event in events(decision)] == [
            "RunStarted",
            "SweepStarted",
            "OwnIdChecked",
            "SweepCompleted",
        ]

    def test_rows_that_were_written_without_knowing_the_id_are_corrected(self) -> None:
        for own_id, expected in ((ANOTHER, "17841"), (UNKNOWN, None)):
            for next_cursor in ("after 2", None):
                decision = decision_on(walking(), saying(own_id, next_cursor=next_cursor), context())
                assert isinstance(decision, Record)
                assert decision.changes.own_id == expected


class TestFold:
    def test_the_next_request_names_the_id_that_is_taken_as_ours(self) -> None:
        action = plan(given(OwnIdChecked(ANOTHER)), NOON, budget(), Policy())

        assert isinstance(action, Fetch)
        assert action.request.own_id == "17841"

    def test_an_id_that_is_as_expected_leaves_no_trace(self) -> None:
        assert given(OwnIdChecked(UNKNOWN)).own_id == UNKNOWN
        assert given(OwnIdChecked(UNKNOWN), OwnIdChecked(EXPECTED)).own_id is None

    def test_everything_is_read_again_once_our_own_id_is_known(self) -> None:
        before = given(COMPLETE)
        assert next_mode(before, at(60), budget(), Policy()) is Mode.INCREMENTAL

        for found in (ANOTHER, EXPECTED):
            after = given(OwnIdChecked(UNKNOWN), OwnIdChecked(found), after=before)
            assert next_mode(after, at(60), budget(), Policy()) is Mode.FULL
        assert next_mode(given(OwnIdChecked(UNKNOWN), after=before), at(60), budget(), Policy()) is Mode.INCREMENTAL

    def test_a_full_sweep_that_began_without_the_id_does_not_count(self) -> None:
        after = given(OwnIdChecked(ANOTHER), COMPLETE, after=walking())

        assert after.last_success_at is not None
        assert next_mode(after, at(60), budget(), Policy()) is Mode.FULL

    def test_a_sweep_whose_first_batch_showed_the_id_counts(self) -> None:
        after = given(OwnIdChecked(ANOTHER), SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))

        assert next_mode(after, at(60), budget(), Policy()) is Mode.INCREMENTAL
