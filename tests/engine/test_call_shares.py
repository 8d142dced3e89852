"""Older messages get half of a page's calls while one of its streams is being swept."""

from milepost.core.model import Platform, Stream
from milepost.engine.call_shares import CallShares

MESSENGER, INSTAGRAM = Stream(Platform.MESSENGER, "1"), Stream(Platform.INSTAGRAM, "1")
OTHER_PAGE = Stream(Platform.MESSENGER, "2")


def test_the_streams_of_a_page_count_their_calls_together_and_each_page_for_itself() -> None:
    shares = CallShares()
    with shares.sweeping(INSTAGRAM):
        shares.count_batch(INSTAGRAM)
        shares.count_batch(INSTAGRAM)
        shares.count_messages(MESSENGER)

        demand = shares.demand(MESSENGER, None)
        assert (demand.batches, demand.messages, demand.is_swept) == (2, 1, True)
        assert not shares.demand(INSTAGRAM, None).is_swept
        assert not shares.demand(OTHER_PAGE, None).is_swept
    assert not shares.demand(MESSENGER, None).is_swept


def test_counting_begins_with_the_first_of_the_sweeps_under_way() -> None:
    shares = CallShares()
    with shares.sweeping(INSTAGRAM):
        shares.count_batch(INSTAGRAM)
        with shares.sweeping(MESSENGER):
            assert shares.demand(MESSENGER, None).batches == 1
    assert shares.demand(MESSENGER, None).batches == 1
    with shares.sweeping(MESSENGER):
        assert shares.demand(MESSENGER, None).batches == 0


def test_it_is_news_only_once_that_messages_are_held_back() -> None:
    shares = CallShares()

    assert not shares.note_held_back(MESSENGER, is_held_back=False)
    assert shares.note_held_back(MESSENGER, is_held_back=True)
    assert not shares.note_held_back(MESSENGER, is_held_back=True)
    assert shares.note_held_back(MESSENGER, is_held_back=False)
