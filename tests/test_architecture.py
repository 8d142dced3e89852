"""docs/architecture.md draws the code as it is."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

from milepost.core.events import TAGS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "daemon" / "milepost"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
IN_THE_BOX_OF_ANOTHER = {"token_watch", "place"}
ARROW = re.compile(r"^    (\w+)(?:\[.*\])? --> (\w+)", re.MULTILINE)


def layers() -> list[set[str]]:
    """Give the layers that the imports are held to, the outermost first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (each for each in contracts if each["name"] == "Imports point inward")
    return [{name.strip().removeprefix("milepost.") for name in layer.split("|")} for layer in contract["layers"]]


def test_the_diagram_has_the_layers_that_the_imports_are_held_to() -> None:
    drawn = set(ARROW.findall(PAGE))
    boxes = [layer - IN_THE_BOX_OF_ANOTHER for layer in layers()]
    assert drawn == {(one, other) for outer, inner in pairwise(boxes) for one in outer for other in inner}


def test_every_part_that_is_named_is_there() -> None:
    for name in re.findall(r"`(\w+/[\w./]+)`", PAGE):
        assert (PACKAGE / name).exists() or (ROOT / name).exists(), name
    for module in re.findall(r"`((?:core|engine)\.\w+)", PAGE):
        assert (PACKAGE / f"{module.replace('.', '/')}.py").exists(), module


def test_every_event_of_the_journal_is_told() -> None:
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    assert [tag for tag in TAGS.values() if f"`{tag}`" not in rows] == []
