"""Servers that are not what they should be: each is told plainly, costs little, and loses nothing."""

from collections.abc import Mapping
from pathlib import Path

from kit.binary import started, until
from kit.graph_answers import encoded, listed, message, thread
from kit.installation import Installation, Section, page_section
from kit.loopback import nowhere
from kit.nonsense_server import NONSENSE, Nonsense, http, talking
from kit.simulated import BICYCLES, NOW, frozen_world

IMPATIENT: Mapping[str, Section] = {
    "source": {"request_timeout": "2s"},
    "retry": {"attempts": 2, "base_delay": "1ms", "max_delay": "1ms"},
    "sync": {"concurrency": 50},
}
SENSE = Nonsense(lambda: [http(encoded(listed(thread("t_1", message()))))], "")
# The program itself takes about 80 MB, and each answer that does not end may have 32 before it is cut off.
MAX_RESIDENT_BYTES = 300 * 2**20


async def peak_resident_bytes(pid: int) -> int:
    """Watch a process to its end, and give the most memory that it held."""
    peak = 0

    def has_ended() -> bool:
        nonlocal peak
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it is dead and buried
            return True
        told = next((line for line in lines if line.startswith("VmHWM")), None)  # the dead have no memory
        peak = int(told.split()[1]) * 1024 if told else peak
        return told is None

    await until(has_ended)
    return peak


async def test_nonsense_of_every_kind_is_told_costs_little_and_holds_up_no_other_stream(
    installation: Installation,
) -> None:
    kinds = [*NONSENSE.values(), SENSE]
    pages = [{"id": str(page), "platforms": ["messenger"], "access_token": "EAAx"} for page in range(len(kinds))]
    async with talking(kinds) as base_url:
        installation.configure(base_url, *pages, **IMPATIENT)
        async with started(installation.folder, "sync") as running:
            peak_bytes = await peak_resident_bytes(running.pid)
            ended = await running.ended()
    assert ended.code == 1, ended
    assert "Traceback" not in ended.stderr, ended
    whys = dict(line.split(": retries exhausted: ") for line in ended.stdout.splitlines() if "exhausted" in line)
    told = {name: whys.get(f"messenger:{page}", "nothing") for page, name in enumerate(NONSENSE)}
    assert [name for name, kind in NONSENSE.items() if kind.told not in told[name]] == [], told
    ends = installation.rows(
        "SELECT status, retries, failed_batches, count(*) FROM runs GROUP BY 1, 2, 3 ORDER BY 1, 2"
    )
    too_large = sum(kind.told == "larger than" for kind in NONSENSE.values())  # less is asked for, down to a position
    assert ends == [("complete", 0, 0, 1), ("failed", 0, 1, too_large), ("failed", 1, 1, len(NONSENSE) - too_large)]
    assert installation.rows("SELECT conversation_id, page_id FROM conversations") == [("t_1", pages[-1]["id"])]
    assert 0 < peak_bytes < MAX_RESIDENT_BYTES, f"{peak_bytes / 2**20:.0f} MB"


async def test_a_dead_port_is_told_and_the_next_sync_makes_up_for_it(installation: Installation) -> None:
    installation.configure(nowhere(), page_section(BICYCLES), **IMPATIENT)
    refused = await installation.sync()
    assert refused.code == 1, refused
    assert "no connection to 127.0.0.1: Connection refused" in refused.stdout
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        assert (await installation.sync()).code == 0
        truth = simulator.world.truth(BICYCLES.id, "messenger", NOW)
    assert installation.rows("SELECT count(*) FROM conversations") == [(len(truth),)]
