"""Milepost's configuration: config.yaml as frozen values.

yaml         the file as plain values with their lines, with environment variables substituted
secrets      secrets from files; where each comes from
model        every key, its default and bounds      (types)
load         all of that in order, the rules between sections, and the error messages
"""

from milepost.settings.load import default_path, load, load_or_default, moved_keys, secret_report
from milepost.settings.model import (
    DeliverySettings,
    HttpSettings,
    PageSettings,
    RetrySettings,
    Settings,
    SourceSettings,
    StoreSettings,
    SyncSettings,
)
from milepost.settings.secrets import SecretOrigin, secret_files, secrets

__all__ = [
    "DeliverySettings",
    "HttpSettings",
    "PageSettings",
    "RetrySettings",
    "SecretOrigin",
    "Settings",
    "SourceSettings",
    "StoreSettings",
    "SyncSettings",
    "default_path",
    "load",
    "load_or_default",
    "moved_keys",
    "secret_files",
    "secret_report",
    "secrets",
]
