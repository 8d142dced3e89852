"""The mark of a database that a copy is made into: it holds some of another one, and is no use to anybody yet."""

from msgspec import Struct

from milepost.core.errors import StoreRefused


class Mark(Struct, frozen=True):
    """The database that is copied, by its URL, and since when: an instant as the tables have it."""

    source: str
    since: str


def refusal(name: object, mark: Mark) -> StoreRefused:
    """Say why the database of that name is not opened."""
    return StoreRefused(
        f"the database {name} is not whole: a copy of {mark.source} into it, begun at {mark.since}, is not finished",
        hint="run `milepost store copy` again with the configuration from before, which goes on; or drop this database",
    )
