"""Texts that no database takes as they are, with the real program on both databases."""

import json

from aiohttp import web

from kit.binary import milepost
from kit.graph_answers import PAGE_ID, listed, message, person, thread
from kit.installation import Installation, on_both_databases
from kit.loopback import serving

ODD = r"n\u0000l \ud83d 👩‍👩‍👧"
KEPT = "n\ufffdl \ufffd 👩‍👩‍👧"


def inbox() -> bytes:
    """Return an inbox of five people; one of them has an odd name, others odd texts."""
    texts = {"message": "ODD", "attachments": listed({"id": "1", "name": "ODD"})}
    threads = [
        thread(f"t_{n}", message(f"m_{n}", person(f"c_{n}")), participants={"data": [person(f"c_{n}", "Ada")]})
        for n in range(5)
    ]
    threads[1]["participants"] = {"data": [person("c_1", "ODD")]}
    threads[2]["snippet"] = "ODD"
    threads[3]["messages"] = listed(message("m_3", person("c_3"), **texts))
    return json.dumps(listed(*threads)).replace("ODD", ODD).encode()


@on_both_databases
async def test_the_rest_of_the_row_is_kept_and_the_number_is_said(installation: Installation) -> None:
    async def respond(_: web.Request) -> web.Response:
        return web.Response(body=inbox(), content_type="application/json")

    page = {"id": PAGE_ID, "platforms": ["messenger"], "access_token": "EAAtoken-of-the-page"}
    async with serving(respond) as base_url:
        installation.configure(base_url, page)
        first = await installation.sync()
        again = await installation.sync("--full")

    assert (first.code, again.code) == (0, 0), first
    assert "replaced_characters=8" in first.stderr
    assert "replaced" not in again.stderr, "it was counted again"
    assert installation.rows("SELECT contact_id, name FROM contacts ORDER BY 1") == [
        (f"c_{n}", KEPT if n == 1 else "Ada") for n in range(5)
    ]
    assert installation.rows("SELECT snippet FROM conversations WHERE conversation_id = 't_2'") == [(KEPT,)]
    ((text, attachments),) = installation.rows(
        "SELECT text, attachments FROM contact_interaction_events WHERE event_id = 'm_3'"
    )
    assert (text, json.loads(attachments)[0]["name"]) == (KEPT, KEPT)
    assert installation.rows("SELECT count(*) FROM contact_interaction_events") == [(5,)]
    assert installation.rows("SELECT count(*) FROM dead_letters") == [(0,)]
    tail = await milepost(installation.folder, "journal", "tail", "-n", "20")
    assert "8 characters replaced" in tail.stdout
    await installation.verify()
