"""Lists that tell nobody: no participant has an id, or no message a sender."""

import pytest

from kit.graph_answers import PAGE, PAGE_ID, Json, encoded, listed, message, person, thread
from milepost.core.model import Batch, Direction
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.decoding import MIN_MESSAGES, MIN_THREADS, Edge, decode
from milepost.facebook.threads import OwnIds

EDGE_URL = f"https://graph.facebook.com/v26.0/{PAGE_ID}/conversations"
ODD = {"id": "t_odd", "updated_time": None}  # makes the list be read item by item


def read(*items: object) -> Batch | Problem:
    return decode(encoded(listed(*items)), 200, Edge(OwnIds([PAGE_ID]), EDGE_URL))


def with_people(number: int, people: object) -> Json:
    return thread(f"t_{number}", participants=people)


def with_sender(number: int, sender: object, messages: int = MIN_MESSAGES) -> Json:
    sent = [message(f"m_{number}_{n}", **{"from": sender}) for n in range(messages)]  # type: ignore[arg-type]
    return thread(f"t_{number}", *sent)


@pytest.mark.parametrize("more", [[], [ODD]], ids=["strictly", "item by item"])
class TestNobody:
    @pytest.mark.parametrize(
        "people",
        [
            pytest.param({"data": [{"name": "Ada"}, {"name": "Page"}]}, id="names only"),
            pytest.param({"nodes": [person(), PAGE], "count": 2}, id="under another name"),
            pytest.param("Ada, Page", id="a text"),
            pytest.param(["Ada", "Page"], id="a list of names"),
        ],
    )
    def test_participants_without_ids_in_every_thread_are_a_problem(self, people: object, more: list[Json]) -> None:
        problem = read(*(with_people(n, people) for n in range(MIN_THREADS)), *more)

        assert isinstance(problem, Problem)
        assert problem.kind is ProblemKind.MISCONFIGURED
        assert "participants" in problem.message
        assert "source.version" in problem.message

    @pytest.mark.parametrize("sender", [None, {}, {"name": "Ada"}, "Ada", ["1"]], ids=repr)
    def test_no_sender_in_any_of_many_messages_is_a_problem(self, sender: object, more: list[Json]) -> None:
        problem = read(*(with_sender(n, sender) for n in range(MIN_THREADS)), *more)

        assert isinstance(problem, Problem)
        assert "who sent it" in problem.message

    @pytest.mark.parametrize("people", [None, {"data": []}, []], ids=repr)
    def test_threads_whose_participants_are_missing_are_kept(self, people: object, more: list[Json]) -> None:
        batch = read(*(with_people(n, people) for n in range(9)), *more)

        assert isinstance(batch, Batch)
        assert [each.contact for each in batch.conversations] == [None] * 9

    def test_a_few_threads_that_tell_nobody_are_kept(self, more: list[Json]) -> None:
        few = MIN_THREADS - 1
        assert isinstance(read(*(with_people(n, "Ada") for n in range(few)), *more), Batch)
        assert isinstance(read(*(with_sender(n, None) for n in range(few)), *more), Batch)
        assert isinstance(read(*(with_sender(n, None, 1) for n in range(9)), *more), Batch)

    def test_threads_that_tell_nobody_among_others_are_kept(self, more: list[Json]) -> None:
        silent = [with_sender(n, None) | {"participants": {"data": [{"name": "Ada"}]}} for n in range(9)]

        batch = read(*silent, with_sender(10, PAGE, 1), *more)

        assert isinstance(batch, Batch)
        assert batch.conversations[-1].interactions[0].direction == Direction.OUT
