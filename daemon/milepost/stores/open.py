"""Opens the database that a URL names. The driver of a database is imported only when it is used."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import datetime
from typing import Literal

from milepost.core.changes import DeliveryPlaces
from milepost.core.model import Stream
from milepost.stores.commit import Forgotten
from milepost.stores.copy import CopyJob, CopyResult, CopySource, CopyTarget, Report, copy_between
from milepost.stores.reader import JournalReader, StreamRows
from milepost.stores.store import OpenStore
from milepost.stores.url import StoreUrl


@asynccontextmanager
async def open_store(
    store_url: StoreUrl, *, synchronous: Literal["full", "normal"] = "full", events_chunk_size: int = 500
) -> AsyncIterator[OpenStore]:
    """Open the database for work, migrate it, and close it at the end of the block.

    `synchronous` is for SQLite, which this process holds alone. Raises StoreBusy, StoreRefused or StoreAway.
    """
    if store_url.file is not None:
        from milepost.stores.sqlite.store import open_sqlite  # noqa: PLC0415

        async with open_sqlite(store_url.file, synchronous=synchronous, events_chunk_size=events_chunk_size) as store:
            yield store
    else:
        from milepost.stores.postgresql.store import open_postgresql  # noqa: PLC0415

        async with open_postgresql(store_url, events_chunk_size=events_chunk_size) as store:
            yield store


@asynccontextmanager
async def open_reader(store_url: StoreUrl, *, alone: bool = False) -> AsyncIterator[JournalReader]:
    """Open the database for reading; with `alone` also for rebuilding, which excludes other writers.

    Raises StoreRefused if there is no database of this program's schema, StoreBusy if `alone` and a daemon holds it,
    StoreAway if it does not answer.
    """
    if store_url.file is not None:
        from milepost.stores.sqlite.reader import open_sqlite_reader  # noqa: PLC0415

        async with open_sqlite_reader(store_url.file, alone=alone) as journal_reader:
            yield journal_reader
    else:
        from milepost.stores.postgresql.reader import open_postgresql_reader  # noqa: PLC0415

        async with open_postgresql_reader(store_url) as journal_reader:
            yield journal_reader


@asynccontextmanager
async def open_deliveries(store_url: StoreUrl) -> AsyncIterator[DeliveryPlaces]:
    """Open the delivery places, to read and to change them beside a running daemon or without one.

    Raises StoreRefused if there is no database of this program's schema, StoreAway if it does not answer.
    """
    if store_url.file is not None:
        from milepost.stores.sqlite.store import open_sqlite_deliveries  # noqa: PLC0415

        async with open_sqlite_deliveries(store_url.file) as places:
            yield places
    else:
        from milepost.stores.postgresql.store import open_postgresql_deliveries  # noqa: PLC0415

        async with open_postgresql_deliveries(store_url) as places:
            yield places


async def forget(store_url: StoreUrl, stream: Stream, contact_id: str) -> Forgotten:
    """Erase a contact of a page with all their data, and keep them out. Works beside a running daemon.

    Raises StoreRefused if there is no database of this program's schema, StoreAway if it does not answer.
    """
    if store_url.file is not None:
        from milepost.stores.sqlite.store import forget_in_sqlite  # noqa: PLC0415

        return await forget_in_sqlite(store_url.file, stream, contact_id)
    from milepost.stores.postgresql.store import forget_in_postgresql  # noqa: PLC0415

    return await forget_in_postgresql(store_url, stream, contact_id)


async def remove(store_url: StoreUrl, stream: Stream, by: str, now: datetime) -> StreamRows | None:
    """Remove a stream with all its rows and return how many there were, or None if nothing of it is stored.

    Raises StoreRefused if there is no database of this program's schema, StoreBusy if a daemon works on one of SQLite,
    StoreAway if it does not answer.
    """
    if store_url.file is not None:
        from milepost.stores.sqlite.store import remove_from_sqlite  # noqa: PLC0415

        return await remove_from_sqlite(store_url.file, stream, by, now)
    from milepost.stores.postgresql.store import remove_from_postgresql  # noqa: PLC0415

    return await remove_from_postgresql(store_url, stream, by, now)


async def copy_store(job: CopyJob, report: Report) -> CopyResult:
    """Copy a database into an empty one, and verify the copy.

    Raises StoreBusy if a Milepost works on one of them, BadConfiguration or StoreRefused if one cannot be used,
    StoreAway if one does not answer, and MilepostError if a row is rejected or the copy differs. Then nothing was
    copied.
    """
    return await copy_between(job, _copy_source(job.source), _copy_target(job.target), report)


def _copy_source(store_url: StoreUrl) -> AbstractContextManager[CopySource]:
    if store_url.file is not None:
        from milepost.stores.sqlite.copy import open_sqlite_source  # noqa: PLC0415

        return open_sqlite_source(store_url.file)
    from milepost.stores.postgresql.copy import open_postgresql_source  # noqa: PLC0415

    return open_postgresql_source(store_url)


def _copy_target(store_url: StoreUrl) -> AbstractContextManager[CopyTarget]:
    if store_url.file is not None:
        from milepost.stores.sqlite.copy import open_sqlite_target  # noqa: PLC0415

        return open_sqlite_target(store_url.file)
    from milepost.stores.postgresql.copy import open_postgresql_target  # noqa: PLC0415

    return open_postgresql_target(store_url)


async def has_database(store_url: StoreUrl) -> bool:
    """Return whether there is a database of Milepost. Raises StoreRefused or StoreAway if that cannot be determined."""
    if store_url.file is not None:
        from milepost.stores.sqlite.errors import exists  # noqa: PLC0415

        return exists(store_url.file)
    from milepost.stores.postgresql.migrate import has_schema  # noqa: PLC0415

    return await has_schema(store_url)


async def is_at_work(store_url: StoreUrl) -> bool:
    """Return whether a Milepost works on the database now. Raises StoreRefused or StoreAway if that is unknown."""
    if store_url.file is not None:
        from milepost.stores.sqlite.connection import is_held, real_path  # noqa: PLC0415

        return is_held(real_path(store_url.file))
    from milepost.stores.postgresql.reader import are_at_work  # noqa: PLC0415

    return await are_at_work(store_url)
