"""From settings to the database that they name."""

from milepost.settings import Settings
from milepost.stores.place import Place


def place_of(settings: Settings) -> Place:
    """Say where the database is, and how to get in."""
    return Place(settings.store.url, settings.store.password.get_secret_value())
