"""A program that lives the lives of streams in a store, as fast as it can: `python -m stores.commit_forever URL …`.

It prints `ack STREAM VERSION` once a commit is durable, `away STREAM VERSION` when the store does not answer (it tries
again once the outcome of the commit is settled), and at the end `done` or the error that it died of, `ERROR MESSAGE`.
"""

import argparse
import asyncio
import os

from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import MilepostError, OutcomeUnknown, StoreAway
from milepost.core.model import Stream
from milepost.stores.open import open_store
from milepost.stores.store import OpenStore
from milepost.stores.url import StoreUrl
from stores.histories import next_commit, stream

PAUSE_SECONDS = 0.01


def report(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def loaded(store: OpenStore, key: str) -> Checkpoint:
    while True:
        try:
            return await store.load(Stream.parse(key))
        except StoreAway:
            await asyncio.sleep(PAUSE_SECONDS)


async def live(store: OpenStore, key: str, commits: int) -> None:
    checkpoint = await loaded(store, key)
    for _ in range(commits):
        following, is_unknown = next_commit(checkpoint), False
        while True:
            try:
                if not is_unknown or await store.settle(following) is None:
                    is_unknown = False
                    await store.commit(following)
                break
            except StoreAway as away:
                is_unknown = is_unknown or isinstance(away, OutcomeUnknown)
                await asyncio.sleep(PAUSE_SECONDS)
                report(f"away {key} {following.checkpoint.version}")
        checkpoint = following.checkpoint
        report(f"ack {key} {checkpoint.version}")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--commits", type=int, default=1)
    parser.add_argument("--synchronous", choices=["full", "normal"], default="full")
    arguments = parser.parse_args()
    store_url, synchronous = StoreUrl(arguments.url), arguments.synchronous
    try:
        async with open_store(store_url, synchronous=synchronous) as store, asyncio.TaskGroup() as group:
            report("open")
            for number in range(arguments.streams):
                group.create_task(live(store, stream(number).key, arguments.commits))
        report("done")
    except* MilepostError as errors:
        for error in errors.exceptions:
            report(f"{type(error).__name__} {error}")


if __name__ == "__main__":
    asyncio.run(main())
