"""Other databases of Milepost in the folder of a new one: a new one beside them may be a slip, and is said."""

import sqlite3
from contextlib import closing
from pathlib import Path

import structlog

MAX_LOOKED_AT = 20
MAX_TOLD = 3
TIMEOUT_SECONDS = 0.5


def tell_of_neighbours(path: Path) -> None:
    """Warn that the database at `path` is new where others lie beside it that hold conversations."""
    others = sorted((other for other in path.parent.glob("*.db") if other != path), key=_written_at, reverse=True)
    held = [told for other in others[:MAX_LOOKED_AT] if (told := _told(other))]
    if held:
        structlog.get_logger("milepost").warning(
            "a new database was created beside others",
            path=str(path),
            beside="; ".join(held[:MAX_TOLD]),
            hint="if one of those was meant, name it in store.url",
        )


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _told(path: Path) -> str | None:
    """Say what a file holds; None where it is no database of Milepost, is empty, or cannot be read now."""
    # Without a WAL nobody has it open: then no lock is needed, and no -shm and -wal are made that nobody would remove.
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=TIMEOUT_SECONDS)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM conversations").fetchone()
            (newest,) = connection.execute("SELECT max(updated_at) FROM checkpoints").fetchone()
    except sqlite3.Error:
        return None
    conversations = "conversation" if count == 1 else "conversations"
    return f"{path.name} holds {count:,} {conversations}, last written at {newest}" if count else None
