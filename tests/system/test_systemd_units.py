"""The units by themselves: systemd accepts them, and they are well sandboxed."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kit.needs import needs

ROOT = Path(__file__).parents[2]
UNITS = ("milepost.service", "milepost@.service", "milepost-sync.service", "milepost-sync.timer")
SERVICES = UNITS[:3]
MAX_EXPOSURE = 1.5
PROGRAM = "/opt/milepost/current/bin/milepost"

pytestmark = needs("systemd-analyze", "systemd")


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=True)


def settings_of(unit: str) -> list[str]:
    lines = (ROOT / "systemd" / unit).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "["))]


def test_systemd_accepts_the_units_without_complaints(tmp_path: Path) -> None:
    for unit in UNITS:
        installed = (ROOT / "systemd" / unit).read_text().replace(PROGRAM, shutil.which("true") or "/bin/true")
        (tmp_path / unit).write_text(installed)
    said = analyzed("verify", *(str(tmp_path / unit) for unit in UNITS))
    # The exit code is 0 even for unknown keys.
    assert said.stderr + said.stdout == ""


@pytest.mark.parametrize("unit", SERVICES)
def test_a_unit_has_a_low_exposure(unit: str) -> None:
    said = analyzed("security", "--offline=true", "--json=short", str(ROOT / "systemd" / unit))
    # The total is only in the table, whose figures are tenths of what each setting adds.
    table = analyzed("security", "--offline=true", "--no-pager", str(ROOT / "systemd" / unit)).stdout
    exposure = float(table.split("Overall exposure level for ")[1].split(": ")[1].split()[0])
    assert exposure <= MAX_EXPOSURE, [each["name"] for each in json.loads(said.stdout) if not each["set"]]


@pytest.mark.parametrize("unit", SERVICES[1:])
def test_the_sandbox_of_the_service_applies_to_the_other_units_as_well(unit: str) -> None:
    own = {"ExecStart", "Description", "Type", "NotifyAccess", "ExecReload", "WatchdogSec", "WantedBy", "RestartSec"}
    own |= {"Restart", "RestartPreventExitStatus", "StartLimitIntervalSec"}
    engine = [line for line in settings_of("milepost.service") if line.split("=")[0] not in own]
    found = [line.replace("milepost-%i", "milepost") for line in settings_of(unit)]
    assert [line for line in engine if line not in found] == []
