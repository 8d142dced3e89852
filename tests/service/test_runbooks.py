"""The runbooks as a page: each alert's link leads to its place in it, also without a token."""

import re
from pathlib import Path

import pytest
import yaml

from milepost.service.page.pages import rendered, runbooks, runbooks_page
from service.listening import TOKEN, listening

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "monitoring/prometheus/alerts.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
HTML = runbooks_page().html.decode()


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("## MilepostDown", '<h2 id="milepostdown"><a id="MilepostDown" href="#milepostdown">MilepostDown</a></h2>'),
        ("**Meaning.** A <b> & `x < y`.", "<p><b>Meaning.</b> A &lt;b&gt; &amp; <code>x &lt; y</code>.</p>"),
        ("    a  # <b>\n      b", "<pre>a  # &lt;b&gt;\n  b</pre>"),
        ("1. One,\n   still.\n2. Two.", "<ol><li>One, still.</li><li>Two.</li></ol>"),
        ("see [Down](#milepostdown)", '<p>see <a href="#milepostdown">Down</a></p>'),
        ("see [errors](errors.md#which)", "<p>see errors (<code>docs/errors.md</code>)</p>"),
    ],
)
def test_the_markdown_of_runbooks_is_rendered(markdown: str, html: str) -> None:
    assert rendered(markdown) == html


@pytest.mark.parametrize("alert", [rule["alert"] for rule in ALERTS])
def test_every_alert_has_its_place(alert: str) -> None:
    assert f'<h2 id="{alert.lower()}"><a id="{alert}"' in HTML


def test_nothing_of_the_markdown_is_left_over_and_every_link_leads_somewhere() -> None:
    text = re.sub(r"<(pre|style|code)>.*?</\1>", "", HTML, flags=re.DOTALL)
    assert not re.search(r"\*\*|`|\]\(|^#|^\d+\. |\{\{", text, re.MULTILINE)
    assert set(re.findall(r'href="#([^"]+)"', HTML)) <= set(re.findall(r'id="([^"]+)"', HTML))


async def test_they_are_served_without_a_token() -> None:
    async with listening(runbooks(), token=TOKEN) as session, session.get("/runbooks") as answer:
        assert (answer.status, await answer.text()) == (200, HTML)
        assert "script-src 'none'" in answer.headers["Content-Security-Policy"]
