"""Copies from one database to another, for the tests of `store copy`."""

from pathlib import Path

from milepost.stores.copy import CopyJob, CopyResult, Progress, Report
from milepost.stores.open import copy_store
from stores.databases import AnyDatabase, Databases
from stores.store_dump import Kind

Pair = tuple[AnyDatabase, AnyDatabase]
WAYS: list[tuple[Kind, Kind]] = [("sqlite", "postgresql"), ("postgresql", "sqlite")]


def ignore(_: Progress) -> None:
    pass


async def copied(
    source: AnyDatabase, target: AnyDatabase, report: Report = ignore, *, replaces_nul: bool = False
) -> CopyResult:
    return await copy_store(CopyJob(source.store_url, target.store_url, replaces_nul), report)


def made(maker: Databases, template: Path, one: Kind, other: Kind) -> Pair:
    return maker.filled(one, template), maker.build(other, is_migrated=False)


def holds_nothing(database: AnyDatabase) -> bool:
    """Whether nothing is left of a copy: only the lock of a file, or only the empty tables of a schema."""
    if database.kind == "sqlite":
        return {each.name for each in database.file.parent.glob(f"{database.file.name}*")} <= {
            f"{database.file.name}.lock"
        }
    return not database.has_tables() or not any(database.everything().values())
