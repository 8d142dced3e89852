"""Sessions of the status page: who has brought the token once is known by a cookie for half a day.

Nothing of it is kept here. The cookie says when it ends, sealed by the token: it outlives a restart of the daemon, and
dies with the token. As with the token itself, whoever has it is let in.
"""

import hmac
import re
from datetime import datetime
from hashlib import sha256

COOKIE = "milepost_session"
MAX_SECONDS = 12 * 60 * 60
MAX_SKEW_SECONDS = 60
_VALUE = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})")


class Sessions:
    """Opens sessions for who knows the token, and knows them again."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def is_token(self, given: str) -> bool:
        """Whether this is the token; the same time for any that is not."""
        # In bytes, as compare_digest refuses text beyond ASCII.
        return hmac.compare_digest(given.encode(errors="surrogateescape"), self._token)

    def open(self, now: datetime) -> str:
        """Give the value of a cookie that is good from now on, for MAX_SECONDS."""
        ends_at = str(int(now.timestamp()) + MAX_SECONDS)
        return f"{ends_at}.{self._seal(ends_at)}"

    def knows(self, value: str, now: datetime) -> bool:
        """Whether a cookie of this value is of a session that is open.

        One that lasts longer than sessions do was opened while the clock was ahead, and would outlive its half day.
        """
        if not self.has_sealed(value):
            return False
        left_seconds = int(value.partition(".")[0]) - now.timestamp()
        return 0 < left_seconds <= MAX_SECONDS + MAX_SKEW_SECONDS

    def has_sealed(self, value: str) -> bool:
        """Whether this is the cookie of a session, open or ended; making one takes the token."""
        match = _VALUE.fullmatch(value)
        return match is not None and hmac.compare_digest(match[2], self._seal(match[1]))

    def _seal(self, ends_at: str) -> str:
        return hmac.new(self._token, f"session of the status page until {ends_at}".encode(), sha256).hexdigest()
