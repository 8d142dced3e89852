"""Milepost's configuration: config.yaml as frozen values.

document     YAML with places and lines, the environment put in  (scalars, files)
credentials  secrets out of files; where each comes from
model        every key, default and bound                        (values, durations)
rules        what must hold between sections
changes      what a file that was read again changes, and which of it takes a restart
wording      what was found, what is allowed
loading      all of that in order
"""

from milepost.settings.diff import Changes, changes_between
from milepost.settings.load import default_path, load, load_or_default, secret_report
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
from milepost.settings.secrets import SecretOrigin, secret_files, secrets

__all__ = [
    "Changes",
    "HttpSettings",
    "LogSettings",
    "PageSettings",
    "RetrySettings",
    "SecretOrigin",
    "Settings",
    "SourceSettings",
    "StoreSettings",
    "SyncSettings",
    "changes_between",
    "default_path",
    "load",
    "load_or_default",
    "secret_files",
    "secret_report",
    "secrets",
]
