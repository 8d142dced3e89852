"""Responses of the conversations edge, in the Graph API's shapes, built from a few values."""

import json

Json = dict[str, object]

PAGE_ID = "1161721903600000"
ACCOUNT_ID = "17841400000000000"
TOKEN = "EAAGm0PX4ZCpsBAKZCtoken0123456789"
NEXT_URL = f"https://graph.facebook.com/v26.0/{PAGE_ID}/conversations?access_token={TOKEN}&limit=25&after=next-cursor"


def person(person_id: str = "26508222372100001", name: str = "Nora Villaseñor") -> Json:
    return {"name": name, "email": f"{person_id}@facebook.com", "id": person_id}


def instagram_person(person_id: str = "6543210987654321", username: str = "nora.v") -> Json:
    return {"username": username, "id": person_id, "user_id": person_id}


PAGE = person(PAGE_ID, "Corner Bakery")
ACCOUNT = instagram_person(ACCOUNT_ID, "corner.bakery")


def listed(*elements: object, next_url: str | None = None, after: str | None = None) -> Json:
    """Wrap elements the way each level of a response does. The cursors are there even without a next page."""
    paging: Json = {"cursors": {"before": "before-cursor", "after": after or "after-cursor"}}
    return {"data": list(elements), "paging": paging | ({"next": next_url} if next_url else {})}


def message(message_id: str = "m_1", sender: Json | None = None, **fields: object) -> Json:
    sent = {
        "id": message_id,
        "created_time": "2026-06-26T01:13:24+0000",
        "from": sender or person(),
        "message": "Hello",
    }
    return sent | fields


def thread(thread_id: str = "t_1038486335310001", *messages: Json, **fields: object) -> Json:
    conversation = {
        "id": thread_id,
        "updated_time": "2026-06-26T01:13:24+0000",
        "link": f"/{PAGE_ID}/inbox/2582605345287947/",
        "snippet": "Hello",
        "message_count": 93,
        "unread_count": 0,
        "can_reply": True,
        "participants": {"data": [person(), PAGE]},
    }
    return conversation | ({"messages": listed(*messages, next_url=NEXT_URL)} if messages else {}) | fields


def error(code: object, message: str = "An unknown error has occurred.", **fields: object) -> Json:
    return {"error": {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "FaG0tDK3mOp"} | fields}


def encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
