"""docs/errors.md has the remedies of the table."""

import re
from pathlib import Path

import pytest

from milepost.core.problems import Problem, ProblemKind
from milepost.core.remedies import RULES, rule_for

PAGE = (Path(__file__).parents[2] / "docs/errors.md").read_text()
ROWS = re.findall(r"^\| ([^|]*\bcode[^|]*) \| (\w+) \|", PAGE, re.MULTILINE)


def problems_in(answer: str) -> list[Problem]:
    """Parse a row's first cell: codes and ranges of codes, code/subcode, and a quoted phrase after its code."""
    codes = re.sub(r"HTTP \d+|\d+xx|\d+ MiB", "", answer)
    codes = re.sub(r"(\d+) to (\d+)", lambda ends: " ".join(map(str, range(int(ends[1]), int(ends[2]) + 1))), codes)
    with_subcodes = re.findall(r"(\d+)/(\d+)", codes)
    with_phrases = re.findall(r'(\d+) "(.+?)"', codes)
    alone = re.findall(r"\d+", re.sub(r'\d+/\d+|\d+ ".+?"', "", codes))
    return [
        *(Problem(ProblemKind.API, "", code=int(code), subcode=int(subcode)) for code, subcode in with_subcodes),
        *(Problem(ProblemKind.API, phrase, code=int(code)) for code, phrase in with_phrases),
        *(Problem(ProblemKind.API, "", code=int(code)) for code in alone),
    ]


@pytest.mark.parametrize(("answer", "remedy"), ROWS)
def test_each_code_has_the_remedy_on_the_page(answer: str, remedy: str) -> None:
    problems = problems_in(answer)
    assert problems
    for problem in problems:
        assert rule_for(problem, has_cursor="cursor" in answer).remedy.value.startswith(remedy), problem


def test_the_page_has_every_code_of_the_table() -> None:
    codes = {problem.code for answer, _ in ROWS for problem in problems_in(answer)}
    assert {code for rule in RULES for code in rule.codes or ()} <= codes
