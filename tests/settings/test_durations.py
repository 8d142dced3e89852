import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from milepost.settings.types import format_duration, parse_duration

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250ms", 0.25),
        ("270s", 270.0),
        ("4.5m", 270.0),
        ("1h", 3600.0),
        ("7d", 604800.0),
        ("0", 0.0),
        ("0s", 0.0),
        (0, 0.0),
    ],
)
def test_the_contracts_examples_are_read(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "",
        "5",
        "s",
        "-1s",
        "+1s",
        "1 s",
        " 1s",
        "1s ",
        "1s\n",
        "1S",
        "1min",
        "1h30m",
        "1e3s",
        ".5s",
        "5.s",
        "٣s",
        "infs",
        "nans",
    ],
)
def test_other_text_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(written)


@pytest.mark.parametrize("written", [5, 5.0, 0.0, True, False, None, (), {}])
def test_only_a_whole_zero_goes_without_a_unit(written: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(written)


@hypothesis_settings(derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)))
def test_what_is_formatted_is_read_back_the_same(number: int, unit: str) -> None:
    seconds = parse_duration(f"{number}{unit}")
    assert seconds == pytest.approx(number * UNITS[unit])
    assert parse_duration(format_duration(seconds)) == seconds


@hypothesis_settings(derandomize=True)
@given(st.text(max_size=8))
def test_any_text_is_a_finite_duration_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < 10**18


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0"), (0.25, "250ms"), (90.0, "90s"), (300.0, "5m"), (3600.0, "1h"), (604800.0, "7d"), (1.5, "1500ms")],
)
def test_a_duration_is_formatted_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
