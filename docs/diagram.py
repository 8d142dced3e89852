"""Draws the diagram of docs/architecture.md from the imports of the code: `python docs/diagram.py`."""

import ast
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "daemon" / "milepost"
PAGE = Path(__file__).parent / "architecture.md"
BEGINNING, END = "<!-- generated from the imports: begin -->", "<!-- generated from the imports: end -->"


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(with_diagram(PAGE.read_text()))


def with_diagram(page: str) -> str:
    """Return the page with the diagram as the code has it now."""
    before, _, rest = page.partition(BEGINNING)
    _, _, after = rest.partition(END)
    arrows = _without_shortcuts(imports_between_rooms())
    boxes = (f'    {room}["<b>{room}</b><br>{_summary(room)}"]' for room in sorted(arrows))
    lines = (f"    {room} --> {other}" for room in sorted(arrows) for other in sorted(arrows[room]))
    return "\n".join(
        (f"{before}{BEGINNING}", "", "```mermaid", "flowchart TD", *boxes, *lines, "```", "", f"{END}{after}")
    )


def imports_between_rooms() -> dict[str, set[str]]:
    """Return the rooms that each room imports from. A room is a package directly below `milepost`."""
    graph = grimp.build_graph("milepost", cache_dir=None)
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            room, other = (f"{name}.".split(".")[1] for name in (module, imported))
            if room != other and {room, other} <= rooms:
                found[room].add(other)
    return found


def _without_shortcuts(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows without those that only shorten a path: nearly every room imports the core, for one."""
    return {room: ends - {far for near in ends for far in _reached(arrows, near)} for room, ends in arrows.items()}


def _reached(arrows: dict[str, set[str]], room: str) -> set[str]:
    return arrows[room] | {far for near in arrows[room] for far in _reached(arrows, near)}


def _summary(room: str) -> str:
    """Return the first sentence of the room's docstring."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".").replace('"', "'")


if __name__ == "__main__":
    main()
