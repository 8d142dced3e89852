"""docs/architecture.md draws the code as it is."""

import re
from pathlib import Path

import pytest

from docs.diagram import with_diagram
from milepost.core import events

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "daemon" / "milepost"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_diagram_draws_the_imports_as_they_are() -> None:
    assert with_diagram(PAGE) == PAGE, "run `python docs/diagram.py`"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(\w+/[\w./]+)`", PAGE))))
def test_each_file_that_the_page_names_exists(name: str) -> None:
    assert (PACKAGE / name).exists() or (ROOT / name).exists()


@pytest.mark.parametrize("module", sorted(set(re.findall(r"`((?:core|engine|fleet)\.\w+)", PAGE))))
def test_each_module_that_the_page_names_exists(module: str) -> None:
    assert (PACKAGE / f"{module.replace('.', '/')}.py").exists()


@pytest.mark.parametrize("tag", sorted(events.TAGS.values()))
def test_each_event_of_the_journal_has_a_row(tag: str) -> None:
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    assert f"`{tag}`" in rows
