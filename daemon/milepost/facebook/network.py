"""The way to a server: a proxy and trusted certificates, as the environment names them, and the lookup of its name.

The variables are the usual ones: HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE. HTTP_PROXY is not used, because plain HTTP is
allowed to the loopback only, so that tokens never leave the machine in plain text.
"""

import asyncio
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct
from yarl import URL

from milepost.core.errors import BadConfiguration

HINT = "write http://host:port, with user:password@ before the host if the proxy asks for it, or unset the variable"


class Proxy(Struct, frozen=True):
    """A proxy. Its user and password are not in `url` but in `headers`, which the repr leaves out."""

    url: URL
    headers: Mapping[str, str] = {}

    def __str__(self) -> str:
        return str(self.url)

    def __repr__(self) -> str:
        return f"Proxy({str(self.url)!r})"


def route_to(url: URL, environment: Mapping[str, str]) -> tuple[Proxy | None, ssl.SSLContext | None]:
    """Return the proxy and the trusted certificates for a URL, where the environment names them.

    Raises BadConfiguration for a variable that cannot be used.
    """
    return proxy_to(url, environment), trusted(environment) if url.scheme == "https" else None


def proxy_to(url: URL, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy to use for a URL; None if none. Raises BadConfiguration, which does not quote the variable."""
    written = _variable("HTTPS_PROXY", environment)
    if url.scheme != "https" or not written or _is_direct(url, _variable("NO_PROXY", environment)):
        return None
    try:
        proxy = URL(written if "://" in written else f"http://{written}")
        headers = {"Proxy-Authorization": _basic(proxy.user, proxy.password or "")} if proxy.user else {}
        host, port = proxy.host or "", proxy.port
        host.encode("idna")  # as it will be looked up; raises UnicodeError, which is a ValueError
    except ValueError:  # its message may quote the password
        raise BadConfiguration("HTTPS_PROXY is not the URL of a proxy", hint=HINT) from None
    if proxy.scheme not in ("http", "https"):
        what = f"HTTPS_PROXY names a proxy for {proxy.scheme}, but only HTTP proxies are supported"
        raise BadConfiguration(what, hint=HINT)
    if not host or not port or " " in written:
        raise BadConfiguration("HTTPS_PROXY names no host, or an impossible port", hint=HINT)
    return Proxy(URL.build(scheme=proxy.scheme, host=host, port=port), headers)


def _basic(user: str, password: str) -> str:
    """Return the value of a header with credentials (RFC 7617)."""
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def trusted(environment: Mapping[str, str]) -> ssl.SSLContext | None:
    """Return a context that trusts the certificates in SSL_CERT_FILE; None without that variable.

    OpenSSL reads it by itself as well, but silently ignores a file that is missing or holds no certificate. For such a
    file this raises BadConfiguration.
    """
    path = environment.get("SSL_CERT_FILE")
    if not path:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        reason = "holds no certificates"
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or 'unknown error').lower()}"
    else:
        return context
    hint = "name a file of PEM certificates that this user may read, or unset the variable"
    raise BadConfiguration(f"SSL_CERT_FILE: {path} {reason}", hint=hint)


def _variable(name: str, environment: Mapping[str, str]) -> str:
    return environment.get(name.lower()) or environment.get(name) or ""


def _is_direct(url: URL, no_proxy: str) -> bool:
    """Return whether NO_PROXY lists the URL's host: by its name or domain, by its address or network, or as `*`."""
    host, port = url.host or "", url.port
    for written in no_proxy.replace(",", " ").split():
        entry, _, only_port = written.rpartition(":") if written.count(":") == 1 else (written, "", "")
        domain = entry.lower().removeprefix("*").strip(".[]")
        if only_port not in ("", str(port)):
            continue
        if entry == "*" or (domain and (host == domain or host.endswith(f".{domain}"))) or _is_within(host, entry):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False


# --- name lookup ------------------------------------------------------------------------------------------------------


class Resolver(AbstractResolver):
    """Looks each name up in a thread that ends with the process: a DNS server that does not answer must not hold it up.

    A thread of a pool would: Python waits for those at its end, and a lookup may take a minute.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises OSError if it has none, UnicodeError if it cannot be one."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(found: list[ResolveResult] | Exception) -> None:
            if future.done():  # nobody waits any more
                return
            if isinstance(found, Exception):
                future.set_exception(found)
            else:
                future.set_result(found)

        def work() -> None:
            found: list[ResolveResult] | Exception
            try:
                found = _look_up(host, port, family)
            except (OSError, UnicodeError) as error:
                found = error
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=work, name=f"lookup of {host}", daemon=True).start()
        return await future

    async def close(self) -> None:
        """Close nothing: a thread ends with its lookup."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, protocol, _, address in found
    ]
