"""The database that the settings name. It holds the data of one source only; another source is refused."""

from collections import Counter
from urllib.parse import urlsplit

from msgspec import Struct

from milepost.core.errors import StoreRefused
from milepost.core.model import DataSource
from milepost.reporting.humanize import listed
from milepost.settings.model import Settings, StoreSettings
from milepost.stores.store import OpenStore, demand_same
from milepost.stores.url import StoreUrl

SIMULATOR = DataSource("simulator")
CHUNK_ROWS = 5_000
MAX_NAMED = 4


def store_url_of(settings: Settings) -> StoreUrl:
    """Return the URL of the configured database, with its credentials."""
    return store_url_in(settings.store)


def store_url_in(store: StoreSettings) -> StoreUrl:
    """Return the URL of the database that a section of the settings names."""
    return StoreUrl(
        store.url,
        store.password.get_secret_value(),
        schema=store.schema_,
        is_pooled=store.pooler == "transaction",
        views=store.views,
    )


def source_of(settings: Settings) -> DataSource:
    """Return the configured source as the database records it."""
    source = settings.source
    if source.kind == SIMULATOR.kind:
        return SIMULATOR
    parts = urlsplit(source.base_url)
    return DataSource(source.kind, parts._replace(netloc=parts.netloc.lower()).geturl())


class Holding(Struct, frozen=True):
    """How many conversations of a stream are stored, and how many of them came from the embedded simulator."""

    stream: str
    conversations: int
    invented: int


async def holdings(store: OpenStore) -> list[Holding]:
    """Count the conversations of each stream. Reads the id of every conversation."""
    # Imported here because a database needs it only once.
    from milepost.simulator.inbox import is_invented  # noqa: PLC0415

    all_, invented = Counter[str](), Counter[str]()
    last = ""
    while chunk := await store.conversations_after(last, CHUNK_ROWS):
        for conversation_id, platform, page_id in chunk:
            stream = f"{platform}:{page_id}"
            all_[stream] += 1
            invented[stream] += is_invented(conversation_id, page_id, platform)
        last = chunk[-1][0]
    return [Holding(stream, count, invented[stream]) for stream, count in sorted(all_.items())]


async def demand_source(store: OpenStore, settings: Settings) -> None:
    """Raise StoreRefused if the database holds data of another source; if none is recorded, record this one."""
    store_url, wanted = store_url_of(settings), source_of(settings)
    recorded = await store.source()
    if recorded is not None:
        demand_same(store_url, recorded, wanted)
        return
    held = await holdings(store)
    _demand_agreement(store_url, wanted, held)
    if held:  # the database is older than the record of sources
        await store.record_source(wanted)
    else:
        store.unrecorded = wanted


def _demand_agreement(store_url: StoreUrl, wanted: DataSource, held: list[Holding]) -> None:
    """Raise StoreRefused if a database without a recorded source holds data that cannot be from this source."""
    if wanted == SIMULATOR:
        real = [each.stream for each in held if each.invented < each.conversations]
        if real:
            raise StoreRefused(
                f"the database {store_url} holds real conversations, of {listed(real, MAX_NAMED)},"
                " and source.kind is simulator",
                hint="set source.kind: facebook, or set store.url to another database",
            )
        return
    invented = [each.stream for each in held if each.invented]
    if invented:
        raise StoreRefused(
            f"the database {store_url} holds people that the simulator invented, in {listed(invented, MAX_NAMED)},"
            f" and the configuration names {wanted}",
            hint="set store.url to another database, which starts empty; or keep this one: `milepost streams remove"
            f" {' '.join(invented) if len(invented) <= MAX_NAMED else 'STREAM…'}`, then `milepost store adopt`",
        )
