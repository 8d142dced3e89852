"""The units by themselves: systemd has nothing to say against them, and they leave little open."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kit.debian import needs

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


def test_systemd_has_nothing_to_say_against_them(tmp_path: Path) -> None:
    for unit in UNITS:
        installed = (ROOT / "systemd" / unit).read_text().replace(PROGRAM, shutil.which("true") or "/bin/true")
        (tmp_path / unit).write_text(installed)
    said = analyzed("verify", *(str(tmp_path / unit) for unit in UNITS))
    # The exit code is 0 for keys that it does not know as well.
    assert said.stderr + said.stdout == ""


@pytest.mark.parametrize("unit", SERVICES)
def test_little_is_left_open(unit: str) -> None:
    said = analyzed("security", "--offline=true", "--json=short", str(ROOT / "systemd" / unit))
    # The total is in the table only; its figures are tenths of what each setting adds.
    table = analyzed("security", "--offline=true", "--no-pager", str(ROOT / "systemd" / unit)).stdout
    exposure = float(table.split("Overall exposure level for ")[1].split(": ")[1].split()[0])
    assert exposure <= MAX_EXPOSURE, [each["name"] for each in json.loads(said.stdout) if not each["set"]]


@pytest.mark.parametrize("unit", SERVICES[1:])
def test_what_confines_the_service_confines_the_others_as_well(unit: str) -> None:
    own = {"ExecStart", "Description", "Type", "NotifyAccess", "ExecReload", "WatchdogSec", "WantedBy", "RestartSec"}
    own |= {"Restart", "RestartPreventExitStatus", "StartLimitIntervalSec"}
    engine = [line for line in settings_of("milepost.service") if line.split("=")[0] not in own]
    found = [line.replace("milepost-%i", "milepost") for line in settings_of(unit)]
    assert [line for line in engine if line not in found] == []
