"""The change feed of a PostgreSQL database, whose transactions take their numbers at the same time.

One that took smaller numbers may be committed after one that took greater ones. Only what is below the numbers of all
transactions under way is read: of those every change is there, for good. See 0016_changes.sql.
"""

from collections.abc import Iterable

from milepost.core.changes import ChangesPage
from milepost.stores.changes import ChangesAsked, changed, deleted, page_of
from milepost.stores.postgresql.connection import Connection, Database

KEYS_OF_LOCKS = 1 << 31
"""The keys of the locks are numbers modulo this."""


def settled(last: int, in_use: Iterable[int]) -> int:
    """Return the number up to which all is settled: `last` was taken before it was read what is `in_use`.

    A transaction that has begun since holds the key of a number after `last`.
    """
    behind = [(last - key) % KEYS_OF_LOCKS for key in in_use]
    return last - max((each for each in behind if each < KEYS_OF_LOCKS // 2), default=0)


async def last_change(database: Database) -> int:
    """Return the number of the latest change that is settled; 0 if there is none."""
    async with database.connection() as connection:
        return await _last_settled(database, connection)


async def read_changes(database: Database, asked: ChangesAsked) -> ChangesPage:
    """Return a page of changes.

    Its statements need not see the same moment: a row that changes between two of them is in a later page.
    """
    async with database.connection() as connection:
        following = asked.after
        for place, up_to in asked.spans(await _last_settled(database, connection)):
            parameters = asked.parameters(place, up_to)
            ((full_at, count),) = await database.rows_on(connection, "changes_up_to", parameters)
            following = full_at if count == asked.limit else up_to
            if count:
                return await _page(database, asked, connection, place, following)
        return ChangesPage((), following)


async def _last_settled(database: Database, connection: Connection) -> int:
    """Begin a transaction and return how far the feed is settled, in one round trip: the order matters."""
    async with connection.pipeline():
        await database.begin(connection)
        taken = await connection.execute(database.sql["last_number"])
        in_use = await connection.execute(database.sql["numbers_in_use"])
        committed = await connection.execute(database.sql["last_change"])
    ((last,),), ((latest,),) = await taken.fetchall(), await committed.fetchall()
    return min(settled(last, (key for (key,) in await in_use.fetchall())), int(latest))


async def _page(database: Database, asked: ChangesAsked, connection: Connection, after: int, up_to: int) -> ChangesPage:
    between = asked.parameters(after, up_to)
    async with connection.pipeline():
        gone = await connection.execute(database.sql["deleted_rows"], between)
        found = {
            kind: await connection.execute(database.sql[statement], between)
            for kind, statement in asked.statements().items()
        }
    changes = deleted(await gone.fetchall())
    for kind, cursor in found.items():
        names = [column.name for column in cursor.description or ()]
        changes += changed(kind, names, await cursor.fetchall())
    return page_of(changes, up_to)
