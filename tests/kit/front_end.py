"""The server side of the front end in docs/nextjs-supabase.md, run by the Node.js that Playwright brings."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from playwright._impl._driver import compute_driver_executable

from kit.binary import ENVIRONMENT
from kit.needs import demand
from kit.supabase import RECIPE

SERVER = Path(__file__).with_name("next_server.mjs")
SUPABASE = {"NEXT_PUBLIC_SUPABASE_URL": "https://supabase.example", "NEXT_PUBLIC_SUPABASE_ANON_KEY": "public"}
START_SECONDS = 60


@asynccontextmanager
async def route_handlers(environment: Mapping[str, str]) -> AsyncIterator[str]:
    """Serve the route handlers during the block, and yield their base URL."""
    demand("node", "nodejs")  # for its libraries, which Playwright's own Node.js needs
    node, _ = compute_driver_executable()
    process = await asyncio.create_subprocess_exec(
        node, str(SERVER), str(RECIPE), env={**ENVIRONMENT, **SUPABASE, **environment}, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        assert line, "the route handlers cannot be loaded"
        yield line.decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
