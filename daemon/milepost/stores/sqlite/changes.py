"""The change feed of a SQLite database: there is one writer at a time, so its numbers are committed in their order."""

import sqlite3
from collections.abc import Mapping

from milepost.core.changes import ChangesPage
from milepost.stores.changes import ChangesAsked, changed, deleted, page_of


def last_change(sql: Mapping[str, str], connection: sqlite3.Connection) -> int:
    """Return the number of the latest change; 0 if there is none."""
    ((last,),) = connection.execute(sql["last_change"])
    return int(last)


def read_changes(sql: Mapping[str, str], asked: ChangesAsked, connection: sqlite3.Connection) -> ChangesPage:
    """Return a page of changes.

    Its statements need not see the same moment: a row that changes between two of them is in a later page.
    """
    following = asked.after
    for place, up_to in asked.spans(last_change(sql, connection)):
        ((full_at, count),) = connection.execute(sql["changes_up_to"], asked.parameters(place, up_to))
        following = full_at if count == asked.limit else up_to
        if count:
            return _page(sql, asked, connection, place, following)
    return ChangesPage((), following)


def _page(
    sql: Mapping[str, str], asked: ChangesAsked, connection: sqlite3.Connection, after: int, up_to: int
) -> ChangesPage:
    between = asked.parameters(after, up_to)
    changes = deleted(connection.execute(sql["deleted_rows"], between))
    for kind, statement in asked.statements().items():
        found = connection.execute(sql[statement], between)
        changes += changed(kind, [name for name, *_ in found.description], found)
    return page_of(changes, up_to)
