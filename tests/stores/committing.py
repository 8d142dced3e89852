"""A program that lives the lives of streams in a store, as fast as it can: `python -m stores.committing PATH …`.

It prints `ack STREAM VERSION` once a commit is durable, `away STREAM VERSION` when the store does not answer (and tries
again), and in the end the error that it died of, `ERROR MESSAGE`, or `done`.
"""

import argparse
import asyncio
import os
from pathlib import Path

from milepost.core.errors import MilepostError, StoreAway
from milepost.stores.sqlite import SqliteStore, open_sqlite
from stores.lives import next_commit, stream


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def live(store: SqliteStore, key: str, commits: int) -> None:
    checkpoint = await store.recall(key)
    for _ in range(commits):
        following = next_commit(checkpoint)
        while True:
            try:
                await store.commit(following)
                break
            except StoreAway:
                tell(f"away {key} {following.checkpoint.version}")
        checkpoint = following.checkpoint
        tell(f"ack {key} {checkpoint.version}")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--commits", type=int, default=1)
    arguments = parser.parse_args()
    try:
        async with open_sqlite(arguments.path) as store, asyncio.TaskGroup() as group:
            tell("open")
            for number in range(arguments.streams):
                group.create_task(live(store, stream(number).key, arguments.commits))
        tell("done")
    except* MilepostError as errors:
        for error in errors.exceptions:
            tell(f"{type(error).__name__} {error}")


if __name__ == "__main__":
    asyncio.run(main())
