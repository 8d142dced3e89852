# ruff: noqa: RUF001  letters of several scripts that look alike are the point of the lists below
"""Seeded randomness: each choice of the simulated world is a hash of its subject, so it is the same every time.

Its names and sentences are hand-picked, in several scripts.
"""

import base64
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

Choice = TypeVar("Choice")

_ID_BITS = 60
_ID_BASE = 1 << _ID_BITS
_SPREAD = 0x9E3779B97F4A7C15 % _ID_BASE | 1
_GATHER = pow(_SPREAD, -1, _ID_BASE)


def draw(*about: object) -> bytes:
    """Return 64 random bytes that depend only on `about`."""
    return blake2b("\x1f".join(map(str, about)).encode()).digest()


def number(*about: object) -> int:
    """Return a number below 2^64 that depends only on `about`."""
    return int.from_bytes(draw(*about)[:8], "big")


def share(*about: object) -> float:
    """Return a number in [0, 1) that depends only on `about`."""
    return (number(*about) >> 11) / (1 << 53)


def pick(choices: Sequence[Choice], seed: int) -> Choice:
    """Return one of `choices`, each equally likely."""
    return choices[seed % len(choices)]


def scattered(value: int) -> int:
    """Return a value below 2^60 as a unique id above 2^53; neighbours end up far apart (`gathered` inverts it)."""
    return _ID_BASE + value * _SPREAD % _ID_BASE


def gathered(scattered_id: int) -> int:
    """Return the value that `scattered` turned into this id."""
    return (scattered_id - _ID_BASE) * _GATHER % _ID_BASE


def url_safe(raw: bytes) -> str:
    """Return Base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sealed(text: str) -> str:
    """Return Base64 as in the Graph API's cursors and Instagram ids: Z becomes ZA, and the padding ZD."""
    return base64.urlsafe_b64encode(text.encode()).decode().replace("Z", "ZA").replace("=", "ZD")


def unsealed(text: str) -> str | None:
    """Return the text that `sealed` encoded; None if `sealed` cannot have returned this."""
    try:
        opened = base64.urlsafe_b64decode(text.replace("ZD", "=").replace("ZA", "Z")).decode()
    except ValueError:
        return None
    return opened if sealed(opened) == text else None


# --- names and sentences ----------------------------------------------------------------------------------------------

PAGE_NAMES = (
    "Corner Bakery",
    "Fahrrad Müller",
    "Café Zoë",
    "Książnica Łódź",
    "喜福茶馆",
    "مكتبة النور",
    "Pho 36 Phố Cổ",
    "Σκαλοπάτι Studio",
)

PEOPLE = (
    "Anna Kowalska",
    "Łukasz Żółty",
    "Zoë Ångström",
    "Jose\u0301 A\u0301ngel Pen\u0303a",  # combining accents
    "Nguyễn Thị Hằng",
    "Tra\u0302\u0300n Văn Đức",  # two marks on one letter
    "李雷",
    "王小明",
    "山田 花子",
    "김민준",
    "محمد الأحمد",
    "נועה כהן",
    "سارا رضایی",
    "Дмитро Шевченко",
    "Ελένη Παπαδοπούλου",
    "प्रिया शर्मा",
    "สมชาย ใจดี",
    "Siobhán O’Neill",
    "Gülşen Işık",
    "Nico 🎸 Baumann",
    "👩‍👩‍👧 The Hollands",
    "D’Arcy \u202eabc\u202c Lee",  # an explicit right-to-left override
    "𝓛𝓾𝓷𝓪 𝓜𝓲𝓼𝓽",  # beyond the basic plane
    'Robert "Bobby" O\\Tables',
)

HANDLES = ("luna", "marek", "noa", "priya", "sofia", "tomek", "xiaoming", "yara", "zoe", "bike", "crumbs", "teahouse")

SENTENCES = (
    "Hello! Are you open on Sunday?",
    "Thanks a lot 🙏🏽",
    "How much is delivery to the old town?",
    "Can I change my order from yesterday? It was two loaves, not three.",
    "👍",
    "ok",
    "I'd like to book a table for four, Friday at 7 pm.\nBy the window if you can.",
    "Bardzo dziękuję, do zobaczenia!",
    "Czy macie jeszcze rozmiar „M”?",
    "Grüße aus Köln – das Rad läuft wieder wie geschmiert.",
    "Ça marche, à demain !",
    "¿Cuánto cuesta el envío? Gracias 😊",
    "Tôi muốn mua hai hộp trà.",
    "Cha\u0300o shop, co\u0301 giao ha\u0300ng kho\u0302ng a\u0323?",
    "请问还有现货吗？",
    "好的，谢谢！",
    "明日の午後に取りに行きます。",
    "감사합니다 ♥",
    "هل يوجد توصيل اليوم؟",
    "شكرا جزيلا 🌹",
    "מתי אתם פותחים מחר?",
    "Добрий день, чи є знижка?",
    "Καλημέρα! Τι ώρα ανοίγετε;",
    "क्या आज दुकान खुली है?",
    "🏳️‍🌈❤️‍🔥👨‍👩‍👧‍👦",
    "Order 4711 — where is it? \u200f(رقم الطلب)",
    '<b>not bold</b> & "quoted" \\ back\\slash; DROP TABLE contacts;--',
    "tab\there, carriage\r\nreturn",
    "Z̸̡̛a̵͎͝l̶̰̽g̷̱̏o̶̥̍ says hi",
    "That is perfect. I will tell my sister, she has looked for this since spring, and her birthday is on the twelfth.",
)

FILE_NAMES = ("menu.pdf", "rechnung-0815.pdf", "план.docx", "見積書.xlsx")
