"""After a power cut a file that `milepost` writes is complete or absent, and present once it was announced."""

import subprocess
from pathlib import Path
from random import Random

import pytest

from kit.binary import command
from kit.power_cut import Call, Disk, recorded, recording
from milepost.stores.open import open_store
from milepost.stores.url import StoreUrl
from stores.histories import live, stream


@pytest.fixture
async def config(tmp_path: Path) -> Path:
    """Return a configuration with a database of some entries."""
    database, config = tmp_path / "milepost.db", tmp_path / "config.yaml"
    async with open_store(StoreUrl(f"sqlite:///{database}")) as store:
        await live(store, stream(0), 12)
    config.write_text(f"store:\n  url: sqlite:///{database}\n")
    return config


@pytest.mark.parametrize("arguments", [("backup",), ("journal", "export")], ids=" ".join)
def test_a_file_is_complete_or_absent_and_present_once_announced(
    tmp_path: Path, config: Path, arguments: tuple[str, ...]
) -> None:
    directory, record = tmp_path / "directory", tmp_path / "record"
    directory.mkdir()
    file = directory / "file"
    written = [*recording(record), *command(*arguments, str(file), "-c", str(config))]
    subprocess.run(written, capture_output=True, check=True, timeout=60)

    calls, whole = list(recorded(record)), file.read_bytes()
    assert whole
    assert calls[-1].descriptor in (1, 2), "it ends with the announcement"
    for seed in range(10):
        jitter = None if seed == 0 else Random(seed)  # noqa: S311  (repeatable)
        disk = Disk(directory)
        for number, call in enumerate(calls):
            disk.follow(call)
            if call is calls[-1] or _is_of_interest(call):
                left = disk.cut(tmp_path / f"{seed}-{number}", jitter) / "file"
                assert left.exists() or call is not calls[-1], "it was announced, and is not there"
                assert not left.exists() or left.read_bytes() == whole, f"it is not whole after {call.name}"


def _is_of_interest(call: Call) -> bool:
    return call.is_sync or call.name in ("rename", "unlink")
