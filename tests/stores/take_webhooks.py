"""A program that takes webhooks: `python -m stores.take_webhooks PATH …`; it prints `ack ID` after each 200."""

import argparse
import asyncio
import os
from datetime import UTC, datetime

import aiohttp

from kit.builders import STREAM
from kit.webhooks import SECRET, body_of, found_nowhere, signed
from milepost.service.metrics.traffic import WebhookCounter
from milepost.service.webhooks import WebhookCredentials, WebhookIntake, WebhookRequests, serving_webhooks
from milepost.stores.open import open_store
from milepost.stores.url import StoreUrl

SENDERS = 3


async def send(session: aiohttp.ClientSession, sender: int, count: int) -> None:
    for number in range(count):
        body = body_of(f"m_{sender}_{number}")
        status = 503
        while status == 503:  # it was not stored in time
            async with session.post("/hook", data=body, headers=signed(body)) as response:
                status = response.status
        assert status == 200, status
        os.write(1, f"ack m_{sender}_{number}\n".encode())


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--synchronous", choices=["full", "normal"], default="full")
    arguments = parser.parse_args()
    store_url = StoreUrl(f"sqlite:///{arguments.path}")
    async with open_store(store_url, synchronous=arguments.synchronous) as store:
        intake = WebhookIntake(
            store.webhooks,
            lambda _, __: STREAM,
            WebhookCounter(dict, tuple),
            lambda: datetime.now(UTC),
            lambda: None,
            found_nowhere,
        )
        credentials = WebhookCredentials("", (SECRET,))
        requests = WebhookRequests("/hook", lambda: credentials, intake.receive, lambda _: None)
        async with (
            serving_webhooks("127.0.0.1", 0, requests) as url,
            aiohttp.ClientSession(url) as session,
            asyncio.TaskGroup() as group,
        ):
            for sender in range(SENDERS):
                group.create_task(send(session, sender, arguments.count))
    os.write(1, b"done\n")


if __name__ == "__main__":
    asyncio.run(main())
