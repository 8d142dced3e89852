"""How much room the disk of the database has, looked at when it is asked for."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class Disk(Collector):
    """Two gauges of the file system that a folder is on. One that cannot be asked has none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Look. It blocks, and so is not for the loop."""
        try:
            usage = shutil.disk_usage(self._folder)
        except OSError:
            return
        yield GaugeMetricFamily(
            "milepost_store_disk_size_bytes", "How large the file system of the database is.", usage.total
        )
        yield GaugeMetricFamily(
            "milepost_store_disk_free_bytes", "How much of it Milepost may still write.", usage.free
        )
