"""Every key of config.yaml with its default and bounds.

The text under a key is its meaning in docs/configuration.md, which `python docs/generate.py` writes.
"""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from milepost.settings.types import (
    Address,
    BaseUrl,
    ChangeKinds,
    DestinationName,
    EndpointUrl,
    FilePath,
    Flag,
    GraphId,
    History,
    HostNames,
    NoticeKinds,
    NoticeUrls,
    Number,
    OptionalAddress,
    OptionalGraphId,
    Origins,
    Platforms,
    SchemaName,
    Seconds,
    Secret,
    Secrets,
    SigningSecrets,
    StoreUrl,
    Text,
    UrlPath,
    Version,
    ViewsSchema,
    Whole,
    format_duration,
    is_loopback,
    split_address,
)

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

MIN_HTTP_TOKEN_LENGTH = 16
FACEBOOK_STORE = "sqlite:///milepost.db"  # the default of store.url with kind: facebook


def key_of(attribute: str) -> str:
    """Return the key in config.yaml: `interval` for `interval_seconds`, and `schema` for `schema_`."""
    return attribute.removesuffix("_seconds").removesuffix("_")


class Section(BaseModel):
    """Frozen settings that refuse unknown keys and wrong types; validated from the keys of config.yaml."""

    model_config = ConfigDict(
        alias_generator=key_of,
        defer_build=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        strict=True,
    )


def section_in(field: FieldInfo) -> type[Section] | None:
    """Return the section that a field holds, itself or as the items of a list."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


class StoreSettings(Section):
    """The database."""

    url: StoreUrl = "sqlite:///simulated.db"
    """The database: `sqlite:///` and a path, relative to the configuration file, or a PostgreSQL URL without password
    (docs/postgresql.md). With `kind: facebook` the default is `sqlite:///milepost.db`."""
    password: Secret = SecretStr("")
    """PostgreSQL only: the password; without one, libpq's own sources apply, such as `~/.pgpass`."""
    password_file: FilePath = ""
    """A file that holds it."""
    synchronous: Literal["full", "normal"] = "full"
    """SQLite only: `full` loses no commit in a power cut; `normal` is faster and may lose the last ones, which are
    then read again."""
    schema_: SchemaName = "milepost"  # `schema` is a method of pydantic's models
    """PostgreSQL only: the schema that holds everything. Avoid `public`, which other roles can read in many databases,
    on some hosts also over an API."""
    pooler: Literal["session", "transaction"] = "session"
    """PostgreSQL only: set `transaction` if the URL leads to a pooler in transaction mode, such as PgBouncer or
    Supabase's port 6543; then no prepared statements and no LISTEN are used."""
    views: ViewsSchema = ""
    """PostgreSQL only: a schema in which to show the tables as views (docs/postgresql.md)."""


class SourceSettings(Section):
    """Where conversations come from."""

    kind: Literal["simulator", "facebook"] = "simulator"
    """The Graph API, or the built-in simulator."""
    base_url: BaseUrl = "https://graph.facebook.com"
    """The API; `https://graph.instagram.com` for Instagram without a Facebook Page."""
    version: Version = "v26.0"
    """The version of the API."""
    access_token: Secret = SecretStr("")
    """The token of the user who manages the pages, for `discover_pages` only."""
    access_token_file: FilePath = ""
    """A file that holds it."""
    app_secret: Secret = SecretStr("")
    """The app secret, which signs each call; without it, calls are not signed."""
    app_secret_file: FilePath = ""
    """A file that holds it."""
    calls_per_second: Number = Field(2.0, ge=0, le=1000)
    """The pace of calls for each page; the default is the platform's limit; `0` means no pacing."""
    request_timeout_seconds: Seconds = Field(30.0, ge=0.1, le=10 * MINUTE)
    """The timeout of one call."""
    rate_limit_floor_seconds: Seconds = Field(60.0, ge=0.1, le=DAY)
    """The shortest wait after a rate limit that names no time."""
    discover_pages: Flag = False
    """Also copy every page that `source.access_token` manages; they are listed every 15 minutes."""


class PageSettings(Section):
    """A Facebook Page or an Instagram professional account."""

    id: GraphId
    """The page's id; each page once."""
    name: Text = ""
    """A name that is shown instead of the id."""
    platforms: Platforms = ("messenger", "instagram")
    """What to copy; each platform is a separate stream."""
    access_token: Secret = SecretStr("")
    """The page's token; required with `kind: facebook`."""
    access_token_file: FilePath = ""
    """A file that holds it."""
    instagram_account_id: OptionalGraphId = None
    """The Instagram account of the page; looked up in the API if missing."""


class SyncSettings(Section):
    """How streams are synced."""

    interval_seconds: Seconds = Field(5 * MINUTE, ge=1, le=30 * DAY)
    """How often each stream is synced."""
    batch_size: Whole = Field(50, ge=1, le=200)
    """The number of conversations requested at once."""
    messages_per_conversation: Whole = Field(20, ge=0, le=20)
    """How many of the newest messages come with each conversation; `0` copies contacts and conversations only."""
    message_history_seconds: History = Field(90 * DAY, ge=0)
    """How far back the older messages of a new conversation are read: `none`, `all`, or a duration. A longer one
    applies to stored conversations after the next full sweep (`milepost sync --full`)."""
    max_run_duration_seconds: Seconds = Field(270.0, ge=1, le=30 * DAY)
    """A run that lasts this long saves its position, and the next one continues."""
    max_batches_per_run: Whole = Field(500, ge=1, le=1_000_000)
    """A run that has read this many batches saves its position, too."""
    concurrency: Whole = Field(16, ge=1, le=1000)
    """How many streams are synced at once."""
    events_chunk_size: Whole = Field(500, ge=1, le=10_000)
    """How many interaction events are written at once."""
    watermark_overlap_seconds: Seconds = Field(10 * MINUTE, ge=0, le=30 * DAY)
    """How far behind its watermark a sweep reads, to allow for clock skew."""
    full_sweep_interval_seconds: Seconds = Field(7 * DAY, ge=0, le=365 * DAY)
    """How often a stream is read to its end, which is the only way to find deletions; `0` means never after the first
    time."""


class RetrySettings(Section):
    """How often, and after what delays, a failure is retried."""

    attempts: Whole = Field(3, ge=1, le=100)
    """How often a batch is tried; waiting for a rate limit does not count."""
    base_delay_seconds: Seconds = Field(2.0, ge=0.001, le=HOUR)
    """The first delay; it doubles with every attempt."""
    # Validated even as the default, as base_delay may be set above it; so it is written as in a file.
    max_delay_seconds: Seconds = Field("32s", ge=0.001, le=DAY, validate_default=True)
    """The longest delay; not below `base_delay`."""

    @field_validator("max_delay_seconds", mode="after")
    @classmethod
    def _not_below_base_delay(cls, max_delay: float, info: ValidationInfo) -> float:
        base_delay = info.data.get("base_delay_seconds", 0.0)
        if max_delay < base_delay:
            found, least = format_duration(max_delay), format_duration(base_delay)
            raise PydanticCustomError("rule", f"found {found}; allowed: at least retry.base_delay, which is {least}")
        return max_delay


class WebhookSettings(Section):
    """What Meta sends by itself: docs/webhooks.md."""

    listen: OptionalAddress = ""
    """Where webhooks are accepted: a separate address, behind a proxy with TLS, on which nothing else is served. Empty:
    nowhere."""
    path: UrlPath = "/webhooks/meta"
    """The path of the callback URL."""
    verify_token: Secret = Field(SecretStr(""), validate_default=True)
    """The verify token that you enter in Meta's dashboard; required with `listen`."""
    verify_token_file: FilePath = ""
    """A file that holds it."""
    secrets: Secrets = ()
    """More secrets that sign webhooks, besides `source.app_secret`: Instagram Login has its own."""
    secrets_file: FilePath = ""
    """A file that holds them, one on each line."""
    subscribe: Flag = False
    """Subscribe each page to the fields that it lacks; those that it has are kept."""

    @field_validator("verify_token", mode="after")
    @classmethod
    def _with_listen(cls, token: SecretStr, info: ValidationInfo) -> SecretStr:
        if info.data.get("listen") and not token:
            need = "the verify token that you enter in Meta's dashboard as well, which webhooks.listen needs"
            raise PydanticCustomError("rule", f"missing; allowed: {need}")
        return token


class DeliverySettings(Section):
    """A destination of changed rows: docs/deliveries.md."""

    name: DestinationName
    """The name of the destination, under which its progress is kept; each name once."""
    url: EndpointUrl
    """Where the rows are posted. A name that resolves to a private address is refused; to deliver within your own
    network, write a private address, or a name without a dot."""
    secret: SigningSecrets
    """The secret that signs each request; while you change it, a list of the new secret and the old one."""
    secret_file: FilePath = ""
    """A file that holds it, or two of them, one on each line."""
    kinds: ChangeKinds = ("contact", "conversation", "message")
    """Which rows are delivered."""
    from_: Literal["now", "start"] = "now"  # `from` is a word of Python
    """Where a new destination begins: with changes from `now` on, or at the `start`, with everything that is stored."""


class NotifySettings(Section):
    """Notices to people: docs/notices.md."""

    urls: NoticeUrls = ()
    """Where notices go, as URLs of Apprise, which contain secrets; needs the extra `notify`. Empty: nowhere."""
    urls_file: FilePath = ""
    """A file that holds them, one on each line."""
    on: NoticeKinds = ("stopped", "token_expiring", "dead_letters", "stalled", "recovered")
    """Which notices are sent."""


class HttpSettings(Section):
    """The HTTP service."""

    listen: Address = "127.0.0.1:9464"
    """The address of status page, metrics and API; port `0` picks a free one."""
    token: Secret = Field(SecretStr(""), validate_default=True)
    """The bearer token, which everything but `/healthz` and `/runbooks` requires, at least 16 characters; required if
    `listen` is not loopback."""
    token_file: FilePath = ""
    """A file that holds it."""

    allowed_hosts: HostNames = ()
    """Without a token: host names, besides this machine's own, under which a proxy may reach the daemon."""
    allowed_origins: Origins = ()
    """Origins whose pages may read the API and its events in a browser (CORS); they may not change anything."""

    @property
    def host(self) -> str:
        """Return the host to listen on; an IPv6 host without brackets."""
        return split_address(self.listen)[0]

    @property
    def port(self) -> int:
        """Return the port to listen on; 0 picks a free one."""
        return split_address(self.listen)[1]

    @field_validator("token", mode="after")
    @classmethod
    def _hard_to_guess(cls, token: SecretStr, info: ValidationInfo) -> SecretStr:
        """Require a long token: only its length protects it, because wrong guesses never lock anybody out."""
        listen = info.data.get("listen")
        is_open = listen is not None and not is_loopback(split_address(listen)[0])
        if len(token) >= MIN_HTTP_TOKEN_LENGTH or not (token or is_open):
            return token
        found = "a shorter one" if token else "none"
        why = "http.listen is open to other machines" if is_open else "it must not be guessed"
        need = f"a token of {MIN_HTTP_TOKEN_LENGTH} characters or more, as {why}"
        raise PydanticCustomError("rule", f"found {found}; allowed: {need}")


class LogSettings(Section):
    """What is logged to stderr, and how."""

    format: Literal["auto", "console", "json"] = "auto"
    """`auto` means console on a terminal and journald fields under systemd."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged."""


class Settings(Section):
    """All of config.yaml; `Settings()` applies without one."""

    store: StoreSettings = Field(default_factory=StoreSettings)
    """The database."""
    source: SourceSettings = Field(default_factory=SourceSettings)
    """Where conversations come from."""
    pages: tuple[PageSettings, ...] = ()
    """The pages to copy: with `kind: facebook` at least one; with `kind: simulator` none, as it has its own."""
    sync: SyncSettings = Field(default_factory=SyncSettings)
    """How streams are synced."""
    retry: RetrySettings = Field(default_factory=RetrySettings)
    """How failures are retried."""
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    """What Meta sends by itself."""
    deliveries: tuple[DeliverySettings, ...] = ()
    """Where changed rows are pushed."""
    notify: NotifySettings = Field(default_factory=NotifySettings)
    """Notices to people."""
    http: HttpSettings = Field(default_factory=HttpSettings)
    """The HTTP service."""
    log: LogSettings = Field(default_factory=LogSettings)
    """What is logged to stderr."""
