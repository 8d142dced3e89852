"""Milepost's configuration: config.yaml as frozen values.

document     YAML with places and lines, the environment put in  (scalars, files)
credentials  secrets out of files; where each comes from
model        every key, default and bound                        (values, durations)
rules        what must hold between sections
wording      what was found, what is allowed
loading      all of that in order
"""

from milepost.settings.credentials import SecretOrigin, secret_files, secrets
from milepost.settings.loading import default_path, load, load_or_default, secret_report
from milepost.settings.model import (
    HttpSettings,
    LogSettings,
    PageSettings,
    RetrySettings,
    Settings,
    SourceSettings,
    StoreSettings,
    SyncSettings,
)

__all__ = [
    "HttpSettings",
    "LogSettings",
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
    "secret_files",
    "secret_report",
    "secrets",
]
