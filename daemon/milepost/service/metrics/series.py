"""The series of the streams: as many as there are streams, times forty, and so kept to be written fast.

`prometheus_client` puts the labels of a series together anew for each scrape, which for a thousand streams took a third
of a second, and held up the work meanwhile. Here the text before a value is made once, and all that a scrape does is
to join.
"""

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Series:
    """A number with its name and labels. It is exposed as long as it has a value."""

    __slots__ = ("head", "value")

    def __init__(self, head: str, value: float | None) -> None:
        self.head = head
        self.value = value

    def inc(self, by: float = 1.0) -> None:
        """Count."""
        self.value = (self.value or 0.0) + by

    def set(self, value: float | None) -> None:
        """Show this value from now on; None shows none."""
        self.value = None if value is None else float(value)


class Family:
    """A metric of the streams: all its series, in the text format of Prometheus.

    One thread may write while another counts.
    """

    def __init__(self, kind: str, name: str, meaning: str, *labels: str) -> None:
        self.name = name
        self._labels = labels
        self._heading = f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"
        self._series: list[Series] = []

    def add(self, *values: str, value: float | None = 0.0) -> Series:
        """Begin a series, given the values of its labels; there must be none with the same."""
        pairs = sorted(zip(self._labels, values, strict=True))
        labels = ",".join(_pair(label, each) for label, each in pairs)
        series = Series(f"{self.name}{{{labels}}} ", value)
        self._series.append(series)
        return series

    def drop(self, label: str, value: str) -> None:
        """Expose no more what has this value of a label."""
        pair = _pair(label, value)
        self._series = [each for each in self._series if pair not in each.head]

    def write(self) -> str:
        """Write the metric as it stands."""
        lines = [f"{each.head}{value}\n" for each in self._series if (value := each.value) is not None]
        return self._heading + "".join(lines)


def _pair(label: str, value: str) -> str:
    return f'{label}="{value.translate(_ESCAPED)}"'
