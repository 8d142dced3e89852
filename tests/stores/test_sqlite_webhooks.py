"""Webhook events in SQLite, and what is left of them whenever the process dies."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.needs import long_only
from kit.power_cut import Call, Disk, recorded, recording
from stores.processes import outcome
from stores.store_dump import SqliteDump, StoreDump
from stores.take_webhooks import SENDERS


class TestDeath:
    """Every death is made in the record of one process, which took webhooks and ended normally."""

    COUNT = 6

    @pytest.fixture(params=["full", *long_only("normal")])
    def directory(self, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        """Return where the process had its database; its record is beside it."""
        directory = tmp_path / "directory"
        directory.mkdir()
        options = [f"--count={self.COUNT}", f"--synchronous={request.param}"]
        life = [sys.executable, "-m", "stores.take_webhooks", str(directory / "milepost.db"), *options]
        assert outcome([*recording(directory.with_name("record")), *life])[-1] == "done"
        return directory

    def deaths(
        self, directory: Path, leave: Callable[[Disk, Path], Path], after: Callable[[Call], bool], onto: Path
    ) -> Iterator[tuple[StoreDump, set[str]]]:
        """Yield what is left by a death after each of these calls, with what had been acknowledged by then."""
        disk, acknowledged = Disk(directory), set[str]()
        for number, call in enumerate(recorded(directory.with_name("record"))):
            disk.follow(call)
            if call.is_printed:
                acknowledged |= {line[4:] for line in call.data.decode().splitlines() if line.startswith("ack ")}
            if acknowledged and after(call):
                yield SqliteDump(leave(disk, onto / str(number)) / "milepost.db"), set(acknowledged)

    @pytest.mark.parametrize(
        ("leave", "after"),
        [
            pytest.param(Disk.killed, lambda call: call.name != "fsync" or call.is_printed, id="a kill at any write"),
            pytest.param(Disk.cut, lambda call: call.is_sync or call.is_printed, id="a power cut"),
        ],
    )
    def test_no_acknowledged_event_is_lost(
        self,
        directory: Path,
        tmp_path: Path,
        leave: Callable[[Disk, Path], Path],
        after: Callable[[Call], bool],
    ) -> None:
        moments = 0
        for kept, acknowledged in self.deaths(directory, leave, after, tmp_path):
            stored = {message_id for (message_id,) in kept.rows("SELECT message_id FROM webhook_events")}
            assert acknowledged <= stored
            moments += 1
        assert moments > SENDERS * self.COUNT
        assert len(acknowledged) == SENDERS * self.COUNT
