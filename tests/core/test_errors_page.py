"""docs/errors.md tells of remedies as the table has them."""

import re
from pathlib import Path

import pytest

from milepost.core.problems import Problem, ProblemKind
from milepost.core.remedies import RULES, rule_for

PAGE = (Path(__file__).parents[2] / "docs/errors.md").read_text()
ROWS = re.findall(r"^\| ([^|]*\bcode[^|]*) \| (\w+) \|", PAGE, re.MULTILINE)


def problems_in(answer: str) -> list[Problem]:
    """Read a row's first cell: codes and ranges of codes, code/subcode, and a phrase behind its code in quotes."""
    told = re.sub(r"HTTP \d+|\d+xx|\d+ MiB", "", answer)
    told = re.sub(r"(\d+) to (\d+)", lambda ends: " ".join(map(str, range(int(ends[1]), int(ends[2]) + 1))), told)
    with_subcodes = re.findall(r"(\d+)/(\d+)", told)
    with_phrases = re.findall(r'(\d+) "(.+?)"', told)
    alone = re.findall(r"\d+", re.sub(r'\d+/\d+|\d+ ".+?"', "", told))
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
    told = {problem.code for answer, _ in ROWS for problem in problems_in(answer)}
    assert {code for rule in RULES for code in rule.codes or ()} <= told
