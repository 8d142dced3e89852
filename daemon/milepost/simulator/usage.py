"""The usage headers: how much of its limits a page has used, as the Graph API writes it and as it oddly does."""

from collections.abc import Mapping

import msgspec

_SOMEBODY_ELSE = "100000000000000009"
_UNKNOWN_KEYS = {"ads_api_access_tier": "development_access", "reset_time_duration": None}


class Usage(msgspec.Struct, frozen=True):
    """How much is used, in percent, and in how many minutes the page may call again.

    With `others`, the entry that counts stands among some that do not: of another kind with a shorter time, and of
    another page with a longer one.
    """

    percent: float
    regain_minutes: int = 0
    others: bool = False

    def headers(self, page_id: str, platform: str, odd_luck: int | None = None) -> Mapping[str, str]:
        """The three usage headers, JSON in strings; with luck one of them is odd."""
        entries = [self._entry(platform, self.regain_minutes)]
        business = {page_id: entries}
        if self.others:
            entries.insert(0, self._entry("ads_insights", self.regain_minutes // 2))
            business = {_SOMEBODY_ELSE: [self._entry(platform, self.regain_minutes + 90)], **business}
        app = {**self._spent, "call_count": int(self.percent / 2)}
        headers = {"X-App-Usage": app, "X-Page-Usage": self._spent, "X-Business-Use-Case-Usage": business}
        written = {name: msgspec.json.encode(value).decode() for name, value in headers.items()}
        return written if odd_luck is None else {**written, **self._odd(page_id, platform, odd_luck)}

    def _odd(self, page_id: str, platform: str, odd_luck: int) -> Mapping[str, str]:
        """By luck a bare percentage, nothing at all, single quotes, unknown keys, or a key that is there twice."""
        idle, entry = (
            msgspec.json.encode(each).decode()
            for each in (self._entry("pages", 0), self._entry(platform, self.regain_minutes))
        )
        forms: tuple[Mapping[str, str], ...] = (
            {"X-App-Usage": f"{int(self.percent / 2)}%"},
            {"X-App-Usage": "", "X-Page-Usage": "", "X-Business-Use-Case-Usage": ""},
            {"X-Page-Usage": str(self._spent)},
            {"X-Page-Usage": msgspec.json.encode({**self._spent, **_UNKNOWN_KEYS}).decode()},
            {"X-Business-Use-Case-Usage": f'{{"{page_id}":[{idle}],"{page_id}":[{entry}]}}'},
        )
        return forms[odd_luck % len(forms)]

    @property
    def _spent(self) -> Mapping[str, int]:
        percent = int(self.percent)
        return {"call_count": percent, "total_cputime": percent // 2, "total_time": percent * 2 // 3}

    def _entry(self, kind: str, regain_minutes: int) -> Mapping[str, object]:
        return {"type": kind, **self._spent, "estimated_time_to_regain_access": regain_minutes}
