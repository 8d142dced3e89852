"""A different value for every key of config.yaml."""

from typing import Any

from milepost.settings import Settings

PAGE = {"id": "1", "access_token": "token-of-page-1"}
RUNNING: dict[str, Any] = {
    "source": {"kind": "facebook"},
    "pages": (PAGE,),
    "webhooks": {"verify_token": "a-word"},
}
# For every key outside of a page, a value that differs from RUNNING's.
OTHERWISE: dict[str, object] = {
    "store.url": "sqlite:///other.db",
    "store.password": "other-password",
    "store.password_file": "other-password",
    "store.synchronous": "normal",
    "store.schema": "crm",
    "store.pooler": "transaction",
    "store.views": "public",
    "source.kind": "simulator",
    "source.base_url": "https://graph.instagram.com",
    "source.version": "v27.0",
    "source.access_token": "token-of-a-user",
    "source.access_token_file": "user-token",
    "source.app_secret": "secret-of-the-app",
    "source.app_secret_file": "app-secret",
    "source.calls_per_second": 1.0,
    "source.request_timeout": "20s",
    "source.rate_limit_floor": "30s",
    "source.discover_pages": True,
    "pages": (PAGE, {"id": "2", "access_token": "token-of-page-2"}),
    "sync.interval": "1m",
    "sync.batch_size": 20,
    "sync.messages_per_conversation": 5,
    "sync.message_history": "all",
    "sync.max_run_duration": "1m",
    "sync.max_batches_per_run": 10,
    "sync.concurrency": 4,
    "sync.events_chunk_size": 100,
    "sync.watermark_overlap": "1m",
    "sync.full_sweep_interval": "1d",
    "retry.attempts": 5,
    "retry.base_delay": "1s",
    "retry.max_delay": "1m",
    "webhooks.listen": "127.0.0.1:9001",
    "webhooks.path": "/meta",
    "webhooks.verify_token": "another-word",
    "webhooks.verify_token_file": "verify-token",
    "webhooks.secrets": ("secret-of-instagram-login",),
    "webhooks.secrets_file": "webhook-secrets",
    "webhooks.subscribe": True,
    "deliveries": (
        {"name": "crm", "url": "https://crm.example/hooks", "secret": "whsec_YS1zZWNyZXQtZm9yLXRoZS1jcm0tcmVjZWl2ZXI="},
    ),
    "notify.urls": ("json://127.0.0.1/path",),
    "notify.urls_file": "notice-urls",
    "notify.on": ("stopped",),
    "http.listen": "127.0.0.1:9000",
    "http.token": "token-of-the-listener",
    "http.allowed_hosts": ("status.example.com",),
    "http.allowed_origins": ("https://crm.example.com",),
    "http.token_file": "http-token",
    "log.format": "json",
    "log.level": "debug",
}


def settings(*places: str, running: dict[str, Any] = RUNNING) -> Settings:
    """Return the running settings with a different value at each of these keys."""
    tree = dict(running)
    for place in places:
        section, _, key = place.rpartition(".")
        tree |= {section: {**tree.get(section, {}), key: OTHERWISE[place]}} if section else {place: OTHERWISE[place]}
    return Settings.model_validate(tree)
