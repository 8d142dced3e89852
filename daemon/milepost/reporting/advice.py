"""What a person can do about a problem: a table like that of the remedies.

The facts are from Meta's documentation ("Handle errors", "Access tokens", "Permissions reference"). The first matching
row counts. If a problem resolves itself, the advice says so: the worst advice is to act when one should wait.
"""

from milepost.core.model import Platform, Stream
from milepost.core.problems import BAD_SIGNATURE, INDISPENSABLE, TOO_MUCH_DATA, Pattern, Problem, ProblemKind, any_of

PERMISSIONS = {
    Platform.MESSENGER: ("pages_messaging", "pages_manage_metadata", "pages_read_engagement"),
    Platform.INSTAGRAM: (
        "instagram_basic",
        "instagram_manage_messages",
        "pages_manage_metadata",
        "pages_read_engagement",
    ),
}

RENEW = (
    "give page {page} a new access_token (in config.yaml or its access_token_file; in source.access_token where pages "
    "are discovered), which is picked up without a restart, unless it is a credential of a systemd unit: then restart "
    "that"
)
SUBSCRIBE = "subscribe each page to these fields, or set webhooks.subscribe: true (docs/webhooks.md)"
_LOG_IN = "have the token's owner log in at facebook.com and follow the instructions there; if that does not help, "
_WAIT = "nothing to do: it continues when the limit is over; further calls would prolong it"
_SIGN = "set source.app_secret (or app_secret_file) to the secret of the app that issued the token"
_UNLESS_IT_PERSISTS = "nothing to do: it is retried automatically; if it persists, "
_REPORT = "please report this, with its code and message"


class Advice(Pattern, frozen=True):
    """A row of the table."""

    sentence: str


_TOKEN = any_of(190, 102)
_ROLE = "give the token's owner a role on page {page}, or take the token of somebody who has one; then " + RENEW

# fmt: off
ADVICE: tuple[Advice, ...] = (
    # --- the token ---
    Advice("the token's owner has removed the app: connect it again; then " + RENEW, codes=_TOKEN, subcode=458),
    Advice(_LOG_IN + RENEW, codes=_TOKEN, subcode=459),
    Advice("the token's owner has changed the password: " + RENEW, codes=_TOKEN, subcode=460),
    Advice("the token has expired: " + RENEW, codes=_TOKEN, subcode=463),
    Advice(_LOG_IN + RENEW, codes=_TOKEN, subcode=464),
    Advice("the token was invalidated: " + RENEW, codes=_TOKEN, subcode=467),
    Advice(_ROLE, codes=_TOKEN, subcode=492),
    Advice(_ROLE, codes=any_of(492)),
    Advice("the token is not valid: " + RENEW, codes=_TOKEN),
    # --- permissions ---
    Advice("the app has no access: ask Meta for advanced access to {permissions}; then " + RENEW, codes=any_of(3)),
    Advice("a permission is missing: grant {permissions}; then " + RENEW, codes=any_of(10, range(200, 300))),
    Advice("source.access_token no longer manages page {page}: give its owner a role there, or remove the page",
           kind=ProblemKind.NOT_MANAGED),
    # --- limits ---
    Advice("check the support inbox of page {page}, which says what was blocked; the stream retries automatically",
           codes=any_of(368)),
    Advice(_WAIT, codes=any_of(4, 17, 32, 341, 613, range(80000, 80010), 80014)),
    # --- the configuration ---
    Advice(_SIGN, codes=any_of(104)),
    Advice(_SIGN, codes=any_of(100), phrase=BAD_SIGNATURE),
    Advice("set source.version to a supported version of the Graph API, and restart", codes=any_of(12, 2635)),
    Advice("page {page} was migrated: replace its id in pages by the one that the message names, and restart",
           codes=any_of(21)),
    Advice("check whether the id of page {page} is right, and whether the page still exists; fix that, and restart",
           codes=any_of(803)),
    Advice("check whether page {page} still exists, whether its id and instagram_account_id are right, and whether "
           "the token may see it; fix that, and restart", codes=any_of(100), subcode=33),
    Advice("set source.version to a version of the Graph API that has this field, or install a newer Milepost; "
           "then restart", kind=ProblemKind.MISCONFIGURED, phrase=INDISPENSABLE),
    Advice("fix what the message names in config.yaml, and restart", kind=ProblemKind.MISCONFIGURED),
    Advice(_REPORT, codes=any_of(100, 2500)),
    # --- what resolves itself ---
    Advice("nothing to do: the walk restarts at the head of the inbox", codes=any_of(2642)),
    Advice("nothing to do at once: what is new is read, and a full sweep tries again within a day; if it persists, "
           "report it to Meta; if runs are short, raise sync.max_run_duration and sync.max_batches_per_run",
           kind=ProblemKind.NO_PROGRESS),
    Advice("nothing to do at once: what is new is read, and a full sweep tries again within a day; if it persists, "
           "report it to Meta", kind=ProblemKind.CURSOR_LOOP),
    Advice("nothing to do: the walk restarts at the head of the inbox", kind=ProblemKind.FALSE_END),
    Advice("check in Meta's inbox whether page {page} really has no conversations, and whether its token still has "
           "{permissions}; nothing is marked as deleted meanwhile", kind=ProblemKind.EMPTY_INBOX),
    Advice("check in Meta's inbox whether the conversations of page {page} are really gone; if another full sweep "
           "misses them after a day, they are marked as deleted", kind=ProblemKind.MOST_MISSING),
    Advice("check in Meta's inbox whether these messages of page {page} are really gone; if they are still missing "
           "after a day, they count as unsent, and their content is erased", kind=ProblemKind.MESSAGES_MISSING),
    Advice("nothing to do: each sweep reads the whole inbox, and none marks deletions, until the order is back; "
           "report it to Meta", kind=ProblemKind.OUT_OF_ORDER),
    Advice("nothing to do: smaller batches are requested", codes=any_of(1), phrase=TOO_MUCH_DATA),
    Advice(_UNLESS_IT_PERSISTS + "check source.base_url and any proxy in between; smaller batches are requested",
           kind=ProblemKind.OVERSIZE),
    Advice(_UNLESS_IT_PERSISTS + "check Meta's status page, metastatus.com", codes=any_of(1, 2)),
    Advice(_WAIT, http_status=429),
    Advice(_UNLESS_IT_PERSISTS + "check the network and source.base_url", kind=ProblemKind.NETWORK),
    Advice(_UNLESS_IT_PERSISTS + "check the network and source.request_timeout", kind=ProblemKind.TIMEOUT),
    Advice(_UNLESS_IT_PERSISTS + "check source.base_url and any proxy in between", kind=ProblemKind.INVALID_RESPONSE),
    Advice(_UNLESS_IT_PERSISTS + _REPORT),
)
# fmt: on


def advice_on(problem: Problem, stream: Stream) -> str:
    """Return a sentence about what a person can do about a problem of `stream`."""
    row = next(row for row in ADVICE if row.fits(problem))
    *others, last = PERMISSIONS[stream.platform]
    return row.sentence.format(page=stream.page_id, permissions=f"{', '.join(others)} and {last}")
