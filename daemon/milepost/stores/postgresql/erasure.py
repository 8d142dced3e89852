"""Forgetting a person in PostgreSQL: all that is theirs goes, and nothing of it comes back."""

from contextlib import AsyncExitStack

from milepost.core.model import Stream
from milepost.stores.erasure import Forgotten
from milepost.stores.postgresql.connection import NO_TIMEOUT, connected
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.migrate import demand_current
from milepost.stores.sql import load_statements
from milepost.stores.url import StoreUrl


async def forget_in_postgresql(store_url: StoreUrl, stream: Stream, contact_id: str) -> Forgotten:
    """Erase a contact of a page, with their conversations, messages and dead letters' payloads, and keep them out.

    Works beside running workers, whose commits wait meanwhile. A contact that is not stored is kept out, too. Of a dead
    letter the journal's part stays; a worker closes it. The server itself overwrites what was erased when it vacuums
    the tables; until then, and in its write-ahead log, replicas and backups, it is still there.

    Raises StoreRefused if there is no schema of this program's, StoreAway if the database does not answer.
    """
    if not contact_id:
        msg = "a contact has an id"
        raise ValueError(msg)
    who = {
        "stream": stream.key,
        "platform": stream.platform.value,
        "page_id": stream.page_id,
        "contact_id": contact_id,
    }
    dsn = dsn_of(store_url)
    await demand_current(dsn)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(connected(dsn, load_statements("postgresql")))
        await database.demand_finished()
        connection = await stack.enter_async_context(database.transaction(statement_timeout=NO_TIMEOUT))

        async def done(statement: str) -> int:
            return (await connection.execute(database.sql[statement], who)).rowcount

        await connection.execute(database.sql["lock_commits"])
        await done("forget_contact")
        await done("forget_conversations")
        forgotten = Forgotten(
            contacts=await done("erase_contact"),
            conversations=await done("erase_conversations"),
            interaction_events=await done("erase_interaction_events"),
            payloads=await done("erase_payloads"),
        )
        await done("erase_notes")
    return forgotten
