"""What a person can do about a problem, as a table beside that of the remedies.

The facts are those of Meta's documentation ("Handle errors", "Access tokens", "Permissions reference"). The first row
that fits counts. What mends itself says so, because the worst advice is to act where waiting is called for.
"""

from milepost.core.model import Platform, Stream
from milepost.core.problems import Pattern, Problem, ProblemKind, any_of
from milepost.core.remedies import BAD_SIGNATURE, TOO_MUCH_DATA

PERMISSIONS = {
    Platform.MESSENGER: "pages_messaging, pages_manage_metadata and pages_read_engagement",
    Platform.INSTAGRAM: "instagram_basic, instagram_manage_messages, pages_manage_metadata and pages_read_engagement",
}

_RENEW = (
    "give page {page} a new access_token (in config.yaml or its access_token_file; in source.access_token where pages "
    "are discovered), which is picked up without a restart"
)
_LOG_IN = "let the token's owner log in at facebook.com and do what is asked there; if that does not mend it, "
_WAIT = "nothing to do: it goes on by itself when the limit is over; calling on would prolong it"
_SIGN = "set source.app_secret (or app_secret_file) to the secret of the app that the token is of"
_UNLESS_IT_LASTS = "nothing to do, as it is tried again by itself; if it lasts, "
_REPORT = "please report this, with its code and message"


class Advice(Pattern, frozen=True):
    """A row of the table."""

    sentence: str


_TOKEN = any_of(190, 102)
_ROLE = "give the token's owner a role on page {page}, or take the token of somebody who has one; then " + _RENEW

# fmt: off
ADVICE: tuple[Advice, ...] = (
    # --- the token ---
    Advice("the token's owner has removed the app: connect it again; then " + _RENEW, codes=_TOKEN, subcode=458),
    Advice(_LOG_IN + _RENEW, codes=_TOKEN, subcode=459),
    Advice("the token's owner has changed the password: " + _RENEW, codes=_TOKEN, subcode=460),
    Advice("the token has expired: " + _RENEW, codes=_TOKEN, subcode=463),
    Advice(_LOG_IN + _RENEW, codes=_TOKEN, subcode=464),
    Advice("the token was invalidated: " + _RENEW, codes=_TOKEN, subcode=467),
    Advice(_ROLE, codes=_TOKEN, subcode=492),
    Advice(_ROLE, codes=any_of(492)),
    Advice("the token is not valid: " + _RENEW, codes=_TOKEN),
    # --- permissions ---
    Advice("the app has no access: ask Meta for advanced access to {permissions}; then " + _RENEW, codes=any_of(3)),
    Advice("a permission is missing: grant {permissions}; then " + _RENEW, codes=any_of(10, range(200, 300))),
    Advice("source.access_token manages page {page} no more: give its owner a role there, or leave the page out",
           kind=ProblemKind.NOT_MANAGED),
    # --- limits ---
    Advice("look at the support inbox of page {page}, which says what was blocked; it is tried again by itself",
           codes=any_of(368)),
    Advice(_WAIT, codes=any_of(4, 17, 32, 341, 613, range(80000, 80010), 80014)),
    # --- the configuration ---
    Advice(_SIGN, codes=any_of(104)),
    Advice(_SIGN, codes=any_of(100), phrase=BAD_SIGNATURE),
    Advice("set source.version to a version of the Graph API that is alive, and restart", codes=any_of(12, 2635)),
    Advice("look whether page {page} still exists, whether its id and instagram_account_id are right, and whether the "
           "token may see it; mend that, and restart", codes=any_of(100), subcode=33),
    Advice("mend in config.yaml what the message names, and restart", kind=ProblemKind.MISCONFIGURED),
    Advice(_REPORT, codes=any_of(100, 2500)),
    # --- what mends itself ---
    Advice("nothing to do: the walk begins again at the head of the inbox", codes=any_of(2642)),
    Advice("nothing to do: less is asked for at a time", codes=any_of(1), phrase=TOO_MUCH_DATA),
    Advice("nothing to do: less is asked for at a time", kind=ProblemKind.OVERSIZE),
    Advice(_UNLESS_IT_LASTS + "see Meta's status page, metastatus.com", codes=any_of(1, 2)),
    Advice(_WAIT, http_status=429),
    Advice(_UNLESS_IT_LASTS + "look at the network and source.base_url", kind=ProblemKind.NETWORK),
    Advice(_UNLESS_IT_LASTS + "look at the network and source.request_timeout", kind=ProblemKind.TIMEOUT),
    Advice(_UNLESS_IT_LASTS + "look at source.base_url and what lies between", kind=ProblemKind.NONSENSE),
    Advice(_UNLESS_IT_LASTS + _REPORT),
)
# fmt: on


def advice_on(problem: Problem, stream: Stream) -> str:
    """Say in a sentence what a person can do about what `stream` has met."""
    row = next(row for row in ADVICE if row.fits(problem))
    return row.sentence.format(page=stream.page_id, permissions=PERMISSIONS[stream.platform])
