"""The types of setting values beyond pydantic's: what each accepts, and the text that says so."""

import binascii
import ipaddress
import re
from base64 import b64decode
from collections.abc import Callable
from math import inf
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from yarl import URL

from milepost.settings.yaml import as_if_written

# --- durations: `250ms`, `270s`, `4.5m`, `1h`, `7d` -------------------------------------------------------------------

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")


def parse_duration(written: object) -> float:
    """Return a written duration in seconds; a plain 0 needs no unit.

    Raises:
        ValueError: it is anything else, such as a number without a unit.
    """
    if isinstance(written, str) and (match := _DURATION.fullmatch(written)):
        number, unit = match.groups()
        return float(number) / 1000 if unit == "ms" else float(number) * _SECONDS[unit]
    if written == "0" or (type(written) is int and written == 0):
        return 0.0
    raise ValueError("not a duration")


def format_duration(seconds: float) -> str:
    """Return a duration in the largest unit that divides it: 300.0 is `5m`; zero is `0`."""
    if seconds == 0:
        return "0"
    unit = next((unit for unit, size in _SECONDS.items() if seconds % size == 0), "ms")
    return f"{seconds / _SECONDS[unit]:g}{unit}"


def parse_history(written: object) -> float:
    """Return how far back histories are read, in seconds: `none` is 0, and `all` infinite. Raises as above."""
    match written:
        case "none":
            return 0.0
        case "all":
            return inf
        case _:
            return parse_duration(written)


# --- what is accepted -------------------------------------------------------------------------------------------------


class Allowed(NamedTuple):
    """A text that says what a field allows; `{low}` and `{high}` are its bounds, formatted by `bound`."""

    text: str
    bound: Callable[[Any], str] = str


class HoldsSecrets:
    """Marks a field whose values are never shown, although their type is not that of a secret."""


def _one_line(secret: SecretStr) -> SecretStr:
    """Refuse a secret that an HTTP header cannot carry, such as one with a line break."""
    if re.fullmatch(r"[!-~]*", secret.get_secret_value()):
        return secret
    raise ValueError("not printable ASCII")


def _notice_url(url: SecretStr) -> SecretStr:
    """Refuse a value that is not a URL; Apprise itself checks its scheme."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]*", url.get_secret_value()):
        return url
    raise ValueError("not a URL of Apprise")


_ANY = r"[^\s&#]+"
# The parameters that libpq accepts in the query of its URL, without those that have settings of their own.
_PARAMETERS = {
    "sslmode": "disable|allow|prefer|require|verify-ca|verify-full",
    "target_session_attrs": "any|read-write|primary",
    "port": "[0-9]{1,5}(,[0-9]{1,5})*",
    **dict.fromkeys(("host", "hostaddr", "sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"), _ANY),
    **dict.fromkeys(("channel_binding", "gssencmode", "krbsrvname", "sslnegotiation"), _ANY),
}
_HOST = r"([^:@/?#\s,\[\]]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?"
_POSTGRESQL = re.compile(rf"postgresql://([^:@/?#\s]+@)?({_HOST}(,{_HOST})*)?/[^@/?#\s]+(\?[^#\s]+)?")
_PORT = re.compile(":([0-9]+)[,/]")
_NO_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})|%00")  # what libpq refuses to decode


# Milepost's own parameters in its first versions; libpq does not know them.
_MOVED_PARAMETERS = ("schema", "pooler", "views")


def _store_url(url: str) -> str:
    if re.fullmatch(r"sqlite:///[^?#]*[^?#/]", url) and not url.endswith("/:memory:"):
        return url
    if _POSTGRESQL.fullmatch(url) and not _NO_ESCAPE.search(url) and all(map(_is_port, _PORT.findall(url))):
        parameters = urlsplit(url).query.split("&")
        _refuse_moved(parameters)
        if all(map(_is_parameter, parameters)):
            return url
    raise ValueError("not the URL of a store")


def _is_port(digits: str) -> bool:
    return 0 < int(digits) <= 65535


def _refuse_moved(parameters: list[str]) -> None:
    """Raise an error that says which keys replace parameters of earlier versions."""
    moved = [written.partition("=") for written in parameters if written.partition("=")[0] in _MOVED_PARAMETERS]
    if moved:
        # A value that is as long as a secret is not quoted.
        keys = (
            f"store.{key}: {value if re.fullmatch('[a-z_][a-z0-9_]{0,23}', value) else '…'}" for key, _, value in moved
        )
        parameter = " and ".join(key for key, _, _ in moved)
        them = "it" if len(moved) == 1 else "them"
        text = f"{parameter} cannot be in the URL any more; remove {them} there and write {', '.join(keys)}"
        raise PydanticCustomError("rule", "{text}", {"text": text})


def _is_parameter(written: str) -> bool:
    """Return whether a PostgreSQL URL may have this parameter; an empty query is fine."""
    key, _, value = written.partition("=")
    return not written or (key in _PARAMETERS and re.fullmatch(_PARAMETERS[key], value) is not None)


def _schema(name: str) -> str:
    if re.fullmatch(r"(?!pg_)[a-z_][a-z0-9_]{0,62}", name):
        return name
    raise ValueError("not the name of a schema")


def is_loopback(host: str) -> bool:
    """Return whether the host is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _base_url(url: str) -> str:
    return _web_url(url, is_loopback, r"[@?#]").rstrip("/")


def _endpoint_url(url: str) -> str:
    return _web_url(url, is_local_name, r"[@#]")


def _web_url(url: str, may_be_plain: Callable[[str], bool], refused: str) -> str:
    """Require https, or http to a host that `may_be_plain` accepts, without the characters `refused`."""
    parts = urlsplit(url if re.fullmatch(r"[!-~]+", url) else "")
    host = parts.hostname or ""
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and may_be_plain(host))
    if is_safe and _can_be_looked_up(host) and parts.port != 0 and not re.search(refused, url):
        return url
    raise ValueError("not such a URL")


def _can_be_looked_up(host: str) -> bool:
    """Return whether a host can be a name in DNS, or is an address: no other one can be looked up and shown."""
    try:
        host.encode("idna")
        return bool(URL.build(scheme="https", host=host).host)
    except ValueError:  # a label is empty or longer than 63 characters, or stands for no text
        return False


def is_local_name(host: str) -> bool:
    """Return whether a host belongs to our own network by its name: a private address, or a name without a dot."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host


def _signing_secrets(written: object) -> object:
    """Split secrets that are written as one text, with spaces or line ends between them."""
    return tuple(written.split()) if isinstance(written, str) else written


MAX_SIGNING_SECRETS = 2  # the new one and the old one, while a receiver switches
_SECRET_PREFIX = "whsec_"  # noqa: S105  # Standard Webhooks, "Signature scheme": 24 to 64 random bytes in base64


def _signing_keys(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if not 1 <= len(secrets) <= MAX_SIGNING_SECRETS or not all(map(_is_signing_key, secrets)):
        raise ValueError("not signing secrets")
    return secrets


def _is_signing_key(secret: SecretStr) -> bool:
    text = secret.get_secret_value()
    try:
        key = b64decode(text.removeprefix(_SECRET_PREFIX).encode(), validate=True)
    except (binascii.Error, ValueError):
        return False
    return text.startswith(_SECRET_PREFIX) and 24 <= len(key) <= 64


def split_address(listen: str) -> tuple[str, int]:
    """Return the host and port of `host:port`; an IPv6 host is written in brackets.

    Raises:
        ValueError: it has another form, or the port is above 65535.
    """
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", listen)
    if match is None or int(match[3]) > 65535 or not _can_be_looked_up(match[1] or match[2].lower()):
        raise ValueError("not host:port")
    if match[1]:
        ipaddress.IPv6Address(match[1])
    return match[1] or match[2], int(match[3])


def reached_at(host: str) -> str:
    """Return where to reach a server that listens on a host; the loopback if it listens on all addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1"
    return host


def authority(host: str, port: int) -> str:
    """Return host and port as in a URL, the opposite of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(listen: str) -> str:
    split_address(listen)
    return listen


def _origin(written: str) -> str:
    """Require an origin as a browser serializes it (WHATWG HTML, "origin"): no other form would ever match."""
    match = re.fullmatch(r"(https?)://(?:[a-z0-9][a-z0-9._-]{0,252}|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?", written)
    if match is None or match.groups() in {("http", "80"), ("https", "443")}:
        raise ValueError("not an origin")
    return written


Item = TypeVar("Item")


def _all_different(items: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(set(items)) < len(items):
        raise ValueError("the same item twice")
    return items


Whole = Annotated[int, BeforeValidator(as_if_written), Allowed("a whole number from {low} to {high}")]
Number = Annotated[float, BeforeValidator(as_if_written), Allowed("a number from {low} to {high}")]
Flag = Annotated[bool, BeforeValidator(as_if_written), Allowed("true or false")]
Seconds = Annotated[
    float, BeforeValidator(parse_duration), Allowed("a duration from {low} to {high}, such as 90s", format_duration)
]
History = Annotated[
    float, BeforeValidator(parse_history), Allowed("none, all, or a duration such as 90d", format_duration)
]
Secret = Annotated[
    SecretStr,
    AfterValidator(_one_line),
    Allowed("printable ASCII characters without spaces; in quotes if all are digits"),
]
Secrets = Annotated[
    tuple[Secret, ...], HoldsSecrets(), Allowed("a list of secrets: printable ASCII characters without spaces")
]
NoticeUrls = Annotated[
    tuple[Annotated[SecretStr, AfterValidator(_notice_url)], ...],
    HoldsSecrets(),
    Allowed("a list of Apprise's URLs, such as json://host/path, each in printable ASCII characters without spaces"),
]
NoticeKinds = Annotated[
    tuple[Literal["stopped", "token_expiring", "dead_letters", "stalled", "recovered"], ...],
    Field(min_length=1),
    AfterValidator(_all_different),
    Allowed("a list of stopped, token_expiring, dead_letters, stalled and recovered"),
]
Text = Annotated[str, Allowed("text; a number, or true and its like, in quotes")]
FilePath = Annotated[str, Allowed("the path of a file, which is read in place of the key without _file")]
_ID_DIGITS = Allowed('the digits of the id; write it in quotes: "1234567890"')
GraphId = Annotated[str, Field(pattern=r"^[0-9]{1,40}$"), _ID_DIGITS]
OptionalGraphId = Annotated[GraphId | None, _ID_DIGITS]
Version = Annotated[str, Field(pattern=r"^v[0-9]+\.[0-9]+$"), Allowed("a version of the Graph API, such as v26.0")]
StoreUrl = Annotated[
    str,
    AfterValidator(_store_url),
    Allowed("sqlite:///relative/path, sqlite:////absolute/path, or postgresql://user@host/database (no password)"),
]
_SCHEMA = "a name of up to 63 small letters, digits and _, which begins with neither a digit nor pg_"
SchemaName = Annotated[str, AfterValidator(_schema), Allowed(_SCHEMA)]
ViewsSchema = Annotated[str, AfterValidator(lambda name: name and _schema(name)), Allowed(f'"" or {_SCHEMA}')]
BaseUrl = Annotated[
    str,
    AfterValidator(_base_url),
    Allowed("an https:// URL (http:// to this machine only) without user, password, query and fragment"),
]
Address = Annotated[str, AfterValidator(_address), Allowed("host:port, such as 127.0.0.1:9464 or [::1]:9464")]
OptionalAddress = Annotated[
    str,
    AfterValidator(lambda listen: listen and _address(listen)),
    Allowed('"" or host:port, such as 127.0.0.1:9465 or [::1]:9465'),
]
UrlPath = Annotated[
    str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)+$"), Allowed("a path of letters, digits and -._~, such as /webhooks/meta")
]
HostNames = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,252})$")], ...],
    AfterValidator(_all_different),
    Allowed("a list of host names without ports, such as [milepost, status.example.com]"),
]
DestinationName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"),
    Allowed("a name of up to 63 letters, digits, - and _, such as crm"),
]
EndpointUrl = Annotated[
    str,
    AfterValidator(_endpoint_url),
    HoldsSecrets(),
    Allowed("an https:// URL (http:// to a private address or a name without a dot only) without user and password"),
]
SigningSecrets = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(_signing_secrets),
    AfterValidator(_signing_keys),
    HoldsSecrets(),
    Allowed("whsec_ and 24 to 64 random bytes in base64, or a list of two such secrets"),
]
ChangeKinds = Annotated[
    tuple[Literal["contact", "conversation", "message"], ...],
    Field(min_length=1),
    AfterValidator(_all_different),
    Allowed("a list of contact, conversation and message"),
]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...],
    AfterValidator(_all_different),
    Allowed("a list of origins as browsers send them, such as [https://crm.example.com, http://localhost:3000]"),
]
Platforms = Annotated[
    tuple[Literal["messenger", "instagram"], ...],
    Field(min_length=1),
    AfterValidator(_all_different),
    Allowed("[messenger], [instagram] or [messenger, instagram]"),
]
