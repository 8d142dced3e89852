"""What can be set: every key of config.yaml, its default and its bounds.

What each means is told in docs/configuration.md, which a test compares with this module.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from milepost.settings.durations import format_duration
from milepost.settings.values import (
    Address,
    BaseUrl,
    FilePath,
    Flag,
    GraphId,
    Number,
    OptionalGraphId,
    Platforms,
    Seconds,
    Secret,
    StoreUrl,
    Text,
    Version,
    Whole,
    is_loopback,
    split_address,
)

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

MIN_HTTP_TOKEN_LENGTH = 16


def key_of(attribute: str) -> str:
    """The key in config.yaml: that of `interval_seconds` is `interval`, whose value carries its unit."""
    return attribute.removesuffix("_seconds")


class Section(BaseModel):
    """Frozen settings that refuse unknown keys and wrong types; made from the keys and values of config.yaml."""

    model_config = ConfigDict(
        alias_generator=key_of,
        defer_build=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        strict=True,
    )


class StoreSettings(Section):
    """Where everything is kept."""

    url: StoreUrl = "sqlite:///milepost.db"
    synchronous: Literal["full", "normal"] = "full"

    @property
    def sqlite_path(self) -> Path:
        """The database file of an `sqlite:///` URL; a relative one starts at the current directory."""
        return Path(self.url.removeprefix("sqlite:///"))


class SourceSettings(Section):
    """Where conversations come from."""

    kind: Literal["simulator", "facebook"] = "simulator"
    base_url: BaseUrl = "https://graph.facebook.com"
    version: Version = "v26.0"
    access_token: Secret = SecretStr("")
    access_token_file: FilePath = ""
    app_secret: Secret = SecretStr("")
    app_secret_file: FilePath = ""
    calls_per_second: Number = Field(2.0, ge=0, le=1000)
    request_timeout_seconds: Seconds = Field(30.0, ge=0.1, le=10 * MINUTE)
    rate_limit_floor_seconds: Seconds = Field(60.0, ge=0.1, le=DAY)


class PageSettings(Section):
    """A Facebook Page or an Instagram professional account."""

    id: GraphId
    name: Text = ""
    platforms: Platforms = ("messenger", "instagram")
    access_token: Secret = SecretStr("")
    access_token_file: FilePath = ""
    instagram_account_id: OptionalGraphId = None


class SyncSettings(Section):
    """How streams are worked."""

    interval_seconds: Seconds = Field(5 * MINUTE, ge=1, le=30 * DAY)
    batch_size: Whole = Field(50, ge=1, le=200)
    messages_per_conversation: Whole = Field(20, ge=0, le=20)
    max_run_duration_seconds: Seconds = Field(270.0, ge=1, le=30 * DAY)
    max_batches_per_run: Whole = Field(500, ge=1, le=1_000_000)
    concurrency: Whole = Field(16, ge=1, le=1000)
    events_chunk_size: Whole = Field(500, ge=1, le=10_000)
    watermark_overlap_seconds: Seconds = Field(10 * MINUTE, ge=0, le=30 * DAY)
    full_sweep_interval_seconds: Seconds = Field(7 * DAY, ge=0, le=365 * DAY)


class RetrySettings(Section):
    """How often, and after what waits, a failure is tried again."""

    attempts: Whole = Field(3, ge=1, le=100)
    base_delay_seconds: Seconds = Field(2.0, ge=0.001, le=HOUR)
    # Validated even if it is the default: a base_delay may be set above it. Written, as only what is written is valid.
    max_delay_seconds: Seconds = Field("32s", ge=0.001, le=DAY, validate_default=True)

    @field_validator("max_delay_seconds", mode="after")
    @classmethod
    def _not_below_base_delay(cls, max_delay: float, info: ValidationInfo) -> float:
        base_delay = info.data.get("base_delay_seconds", 0.0)
        if max_delay < base_delay:
            found, least = format_duration(max_delay), format_duration(base_delay)
            raise PydanticCustomError("rule", f"found {found}; allowed: at least retry.base_delay, which is {least}")
        return max_delay


class HttpSettings(Section):
    """The HTTP service."""

    listen: Address = "127.0.0.1:9464"
    token: Secret = Field(SecretStr(""), validate_default=True)
    token_file: FilePath = ""

    @property
    def host(self) -> str:
        """The host to listen on, an IPv6 one without brackets."""
        return split_address(self.listen)[0]

    @property
    def port(self) -> int:
        """The port to listen on; 0 takes a free one."""
        return split_address(self.listen)[1]

    @field_validator("token", mode="after")
    @classmethod
    def _guarded_unless_loopback(cls, token: SecretStr, info: ValidationInfo) -> SecretStr:
        listen = info.data.get("listen")
        if listen is None or is_loopback(split_address(listen)[0]) or len(token) >= MIN_HTTP_TOKEN_LENGTH:
            return token
        found = "a shorter one" if token else "none"
        need = f"a token of {MIN_HTTP_TOKEN_LENGTH} characters or more, as http.listen is open to other machines"
        raise PydanticCustomError("rule", f"found {found}; allowed: {need}")


class LogSettings(Section):
    """What is logged to stderr, and how."""

    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Section):
    """All of config.yaml. `Settings()` is what applies without one."""

    store: StoreSettings = Field(default_factory=StoreSettings)
    source: SourceSettings = Field(default_factory=SourceSettings)
    pages: tuple[PageSettings, ...] = ()
    discover_pages: Flag = False
    sync: SyncSettings = Field(default_factory=SyncSettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    log: LogSettings = Field(default_factory=LogSettings)
