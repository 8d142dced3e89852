"""model.Stream: the key of a stream."""

import pytest

from milepost.core.model import Platform, Stream


@pytest.mark.parametrize("platform", list(Platform))
def test_a_key_parses_back(platform: Platform) -> None:
    stream = Stream(platform, "1234567890")

    assert stream.key == f"{platform.value}:1234567890"
    assert Stream.parse(stream.key) == stream


@pytest.mark.parametrize("key", ["", "messenger", "messenger:", ":123", "telegram:123", "Messenger:123"])
def test_what_is_not_a_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"not a"):
        Stream.parse(key)
