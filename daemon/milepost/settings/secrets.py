"""The secrets among the settings: reads them from files and the environment, lists where they come from."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from pydantic import SecretStr

from milepost.core.errors import BadConfiguration, ConfigurationAway
from milepost.settings.model import Section, Settings, section_in
from milepost.settings.yaml import UNRESOLVED, Document, KeyPath, Problem, format_key_path, read_text

MAX_FILE_BYTES = 16 * 1024
_FILE = "_file"
_LISTS = {"secrets", "urls"}  # keys whose file holds one secret on each line
APP_SECRET_VARIABLE = "MILEPOST_APP_SECRET"  # noqa: S105  # the name of the variable, not its value


class SecretOrigin(msgspec.Struct, frozen=True):
    """Where a secret comes from, for `milepost config check`, without the secret itself.

    Attributes:
        key: its key, such as `pages[0].access_token`.
        origin: `environment variable X`, `file Y`, `written in config.yaml` or `not set`.
        warning: what is unsafe about it, if anything.
    """

    key: str
    origin: str
    warning: str = ""


def secrets(settings: Settings) -> tuple[str, ...]:
    """Return every secret in the settings, for log redaction."""
    found = list[SecretStr]()
    for section, key in _held(settings):
        held = getattr(section, key)
        found += held if isinstance(held, tuple) else [held]
    return tuple(secret.get_secret_value() for secret in found if secret)


def secret_files(settings: Settings) -> tuple[Path, ...]:
    """Return the files that secrets were read from, which may change while the daemon runs."""
    names = (getattr(section, f"{key}{_FILE}") for section, key in _held(settings))
    return tuple(Path(name) for name in names if name)


def _held(settings: Settings) -> Iterator[tuple[Section, str]]:
    """Yield every section that holds secrets, with the key of each."""
    for _, value in settings:
        for section in value if isinstance(value, tuple) else (value,):
            yield from ((section, key) for key in _keys_in(type(section)))


def _keys_in(section: type[Section]) -> list[str]:
    """Return the keys of a section's secrets: those whose value may be in a file."""
    return [name.removesuffix(_FILE) for name in section.model_fields if name.endswith(_FILE)]


def written_items(document: Document, key: str) -> Iterator[tuple[KeyPath, dict[str, object]]]:
    """Yield each mapping in the list under a key, with its path."""
    items = document.tree.get(key)
    for index, item in enumerate(items if isinstance(items, tuple) else ()):
        if isinstance(item, dict):
            yield (key, index), item


def fill_in(document: Document, environment: Mapping[str, str]) -> None:
    """Fill in the secrets kept in files, and the app secret from its environment variable.

    File paths are resolved against the folder of the document. A file that cannot be read becomes a problem of the
    document, and its value UNRESOLVED, so that no second problem is reported.
    """
    for key_path, section, key in _secret_keys(document):
        file_key = f"{key}{_FILE}"
        file, given = section.get(file_key), section.get(key)
        if not isinstance(file, str) or not file:
            continue
        if given not in (None, "", ()):
            document.problems.append(Problem((*key_path, file_key), f"given beside {key}; allowed: one of the two"))
            continue
        path = document.folder / file
        section[file_key] = str(path)
        try:
            found = read_secret(path)
            section[key] = tuple(found.split()) if key in _LISTS else found
        except ConfigurationAway:
            raise
        except BadConfiguration as error:
            document.problems.append(Problem((*key_path, file_key), error.message))
            section[key] = UNRESOLVED
    source = document.tree.get("source")
    if isinstance(source, dict) and (secret := environment.get(APP_SECRET_VARIABLE)):
        source.setdefault("app_secret", secret)


def origins(document: Document) -> Iterator[SecretOrigin]:
    """Yield where each secret of a filled-in document comes from."""
    for key_path, section, key in _secret_keys(document):
        where, file, value = (*key_path, key), section.get(f"{key}{_FILE}"), section.get(key)
        if not isinstance(value, str | tuple) or not value:
            yield SecretOrigin(format_key_path(where), "not set")
        elif isinstance(file, str) and file:
            yield SecretOrigin(format_key_path(where), f"file {file}", _exposure(Path(file)))
        elif isinstance(value, tuple):
            yield from (_written(document, (*where, index), key) for index in range(len(value)))
        else:
            yield _written(document, where, key)


def _written(document: Document, where: KeyPath, key: str) -> SecretOrigin:
    name = format_key_path(where)
    if variables := document.answered.get(where):
        return SecretOrigin(name, f"environment variable {', '.join(variables)}")
    if where not in document.written:
        return SecretOrigin(name, f"environment variable {APP_SECRET_VARIABLE}")
    warning = f"move it into the environment or a file: ${{NAME}}, or {key}{_FILE}"
    return SecretOrigin(name, f"written in {document.path}", warning)


def _secret_keys(document: Document) -> Iterator[tuple[KeyPath, dict[str, object], str]]:
    """Yield every possible secret: the path and the mapping of its section, and its key; those in lists come last."""
    sections = {name: inner for name, field in Settings.model_fields.items() if (inner := section_in(field))}
    for name, section in sections.items():
        written = document.tree.get(name)
        if isinstance(written, dict) and Settings.model_fields[name].annotation is section:
            yield from (((name,), written, key) for key in _keys_in(section))
    for name, section in sections.items():
        for key_path, item in written_items(document, name):
            yield from ((key_path, item, key) for key in _keys_in(section))


def read_secret(path: Path) -> str:
    """Return the secret in a file. Raises BadConfiguration if the file cannot be read or is empty."""
    secret = read_text(path, max_bytes=MAX_FILE_BYTES).rstrip("\r\n")
    if not secret.strip():
        raise BadConfiguration(f"{path}: is empty; it must hold the secret")
    return secret


def _exposure(path: Path) -> str:
    try:
        open_to_all = path.stat().st_mode & stat.S_IROTH
    except OSError:
        return ""  # it was readable a moment ago, and has been removed since
    return f"every user of this machine can read it: chmod o= {path}" if open_to_all else ""
