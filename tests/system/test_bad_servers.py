"""Servers that misbehave: each is reported clearly, costs little memory, and loses nothing."""

from collections.abc import Collection, Mapping
from pathlib import Path

from kit.binary import Ended, started, until
from kit.graph_answers import encoded, listed, message, thread
from kit.installation import Installation, Section, page_section
from kit.invalid_responses import KINDS, Kind, http, talking
from kit.loopback import nowhere
from kit.simulated import BICYCLES, NOW, frozen_world

RETRY: Section = {"attempts": 2, "base_delay": "1ms", "max_delay": "1ms"}
# A response is judged at its end, however long a busy machine takes to read it; silence ends with the timeout.
PATIENT: Mapping[str, Section] = {"source": {"request_timeout": "60s"}, "retry": RETRY, "sync": {"concurrency": 50}}
IMPATIENT: Mapping[str, Section] = {"source": {"request_timeout": "1s"}, "retry": RETRY}
SILENCES = {name: kind for name, kind in KINDS.items() if kind.expected == "no response within"}
ANSWERS = {name: kind for name, kind in KINDS.items() if name not in SILENCES}
SENSE = Kind(lambda: [http(encoded(listed(thread("t_1", message()))))], "")
# The program itself takes about 80 MB, and each endless response may take 32 before it is cut off.
MAX_RESIDENT_BYTES = 300 * 2**20


async def peak_resident_bytes(pid: int) -> int:
    """Watch a process to its end, and return its peak memory."""
    peak = 0

    def has_ended() -> bool:
        nonlocal peak
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended and was reaped
            return True
        line = next((line for line in lines if line.startswith("VmHWM")), None)  # an ended process has no memory
        peak = int(line.split()[1]) * 1024 if line else peak
        return line is None

    await until(has_ended)
    return peak


def pages_of(kinds: Collection[Kind]) -> list[dict[str, object]]:
    """Return a page for each kind: page 0 gets the first."""
    return [{"id": str(page), "platforms": ["messenger"], "access_token": "EAAx"} for page in range(len(kinds))]


def wrongly_told(ended: Ended, kinds: Mapping[str, Kind]) -> dict[str, str]:
    """Return the kinds that are not reported as expected, with what is reported."""
    whys = dict(line.split(": retries exhausted: ") for line in ended.stdout.splitlines() if "exhausted" in line)
    reported = {name: whys.get(f"messenger:{page}", "nothing") for page, name in enumerate(kinds)}
    return {name: reported[name] for name, kind in kinds.items() if kind.expected not in reported[name]}


async def test_every_kind_of_invalid_response_is_reported_costs_little_and_holds_up_no_other_stream(
    installation: Installation,
) -> None:
    kinds = [*ANSWERS.values(), SENSE]
    async with talking(kinds) as base_url:
        installation.configure(base_url, *pages_of(kinds), **PATIENT)
        async with started(installation.folder, "sync") as running:
            peak_bytes = await peak_resident_bytes(running.pid)
            ended = await running.ended()
    assert ended.code == 1, ended
    assert "Traceback" not in ended.stderr, ended
    assert wrongly_told(ended, ANSWERS) == {}
    ends = installation.rows(
        "SELECT status, retries, failed_batches, count(*) FROM runs GROUP BY 1, 2, 3 ORDER BY 1, 2"
    )
    assert ends == [("complete", 0, 0, 1), ("failed", 1, 1, len(ANSWERS))]
    assert installation.rows("SELECT conversation_id, page_id FROM conversations") == [("t_1", str(len(ANSWERS)))]
    assert 0 < peak_bytes < MAX_RESIDENT_BYTES, f"{peak_bytes / 2**20:.0f} MB"


async def test_a_silent_server_is_reported_after_the_request_timeout(installation: Installation) -> None:
    kinds = [*SILENCES.values()]
    async with talking(kinds) as base_url:
        installation.configure(base_url, *pages_of(kinds), **IMPATIENT)
        ended = await installation.sync()
    assert ended.code == 1, ended
    assert wrongly_told(ended, SILENCES) == {}
    assert installation.rows("SELECT status, retries, failed_batches FROM runs") == [("failed", 1, 1)] * len(kinds)


async def test_a_refused_connection_is_reported_and_the_next_sync_catches_up(installation: Installation) -> None:
    installation.configure(nowhere(), page_section(BICYCLES), **PATIENT)
    refused = await installation.sync()
    assert refused.code == 1, refused
    assert "no connection to 127.0.0.1: Connection refused" in refused.stdout
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        assert (await installation.sync()).code == 0
        truth = simulator.world.truth(BICYCLES.id, "messenger", NOW)
    assert installation.rows("SELECT count(*) FROM conversations") == [(len(truth),)]
