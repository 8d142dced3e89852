"""Names lead to the Internet only, unless the configuration names a host of our own network."""

import socket
from typing import Any

import pytest

from milepost.deliveries.sender import ForbiddenAddress, GuardedResolver, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.7", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:10.0.0.7",
        "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    ],
)  # fmt: skip
def test_these_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_these_addresses_are_public(address: str) -> None:
    assert is_public(address)


class Dns:
    """What names lead to, one answer after the other."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []

    def getaddrinfo(self, host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        assert host == "crm.example"
        family = socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.answers.pop(0)]


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Dns:
    dns = Dns()
    monkeypatch.setattr("milepost.deliveries.sender.socket.getaddrinfo", dns.getaddrinfo)
    return dns


async def test_only_public_addresses_of_a_name_are_connected_to(dns: Dns) -> None:
    resolver = GuardedResolver(may_be_private=False)
    dns.answers = [["10.0.0.7", "1.1.1.1", "127.0.0.1"]]
    assert [each["host"] for each in await resolver.resolve("crm.example", 443)] == ["1.1.1.1"]
    await resolver.close()


async def test_a_name_that_changes_over_to_a_private_address_is_refused(dns: Dns) -> None:
    resolver = GuardedResolver(may_be_private=False)
    dns.answers = [["1.1.1.1"], ["169.254.169.254"]]
    assert await resolver.resolve("crm.example", 443)
    with pytest.raises(ForbiddenAddress):
        await resolver.resolve("crm.example", 443)
    await resolver.close()


async def test_a_host_of_our_own_network_may_have_any_address(dns: Dns) -> None:
    resolver = GuardedResolver(may_be_private=True)
    dns.answers = [["10.0.0.7"]]
    (found,) = await resolver.resolve("crm.example", 8080)
    assert (found["host"], found["port"]) == ("10.0.0.7", 8080)
    await resolver.close()
