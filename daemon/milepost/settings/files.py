"""Small text files that the configuration is made of: itself, and the secrets it names."""

from pathlib import Path

from milepost.core.errors import BadConfiguration


def read_text(path: Path, *, max_bytes: int) -> str:
    """The text of a file.

    Raises:
        BadConfiguration: the file is missing, not to be read, too large, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise BadConfiguration(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise BadConfiguration(f"{path}: is a directory, not a file") from None
    except PermissionError:
        raise BadConfiguration(f"{path}: permission to read it is denied") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadConfiguration(f"{path!s}: cannot be read: {reason}") from None
    if len(content) > max_bytes:
        raise BadConfiguration(f"{path}: is larger than {max_bytes} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadConfiguration(f"{path}:{line}: is not UTF-8 text") from None
