"""Searches a program's output and files for secrets, in any form in which they may appear."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus


def forms(secret: str) -> set[bytes]:
    """Return a secret in every form in which programs write text."""
    written = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    return {form.encode() for form in written} | {repr(secret)[1:-1].encode(), base64.b64encode(secret.encode())}


def leaks(places: Mapping[str, bytes], secrets: Iterable[str]) -> list[str]:
    """Return the names of the places that contain any of the secrets."""
    sought = {form for secret in secrets for form in forms(secret)}
    return [name for name, content in places.items() if any(form in content for form in sought)]


def left_behind(folder: Path, *, besides: Iterable[Path]) -> dict[str, bytes]:
    """Read every file in a folder, except those that are meant to hold secrets."""
    files = (path for path in folder.rglob("*") if path.is_file() and path not in set(besides))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
