"""Reads from public web servers for an address that is not trusted, and from no other machine.

The host is resolved once, every address that it resolves to must be public, and the connection goes to the address
that was checked: a name that resolves to something else a moment later (DNS rebinding) gains nothing. Each redirect
is checked again. Proxies of the environment are not used, since a proxy would resolve the name itself.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from transforms.core.errors import AccessDenied, AddressRefused, NotFound, StorageFault, TooManyBytes
from transforms.core.redaction import shown

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
TOTAL_SECONDS = 60.0  # of one request, headers and body: a server that sends a byte a second is cut off

_CHUNK = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def get(url: str, max_bytes: int) -> bytes:
    """The body behind ``url``; raises AddressError subclasses only, with redacted messages."""
    for _ in range(MAX_REDIRECTS + 1):
        answer = _request(url, max_bytes)
        if isinstance(answer, bytes):
            return answer
        url = _target(url, answer.location)
    raise AddressRefused(f"{shown(url)} is the end of more than {MAX_REDIRECTS} redirects; give the final address")


def _target(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise AddressRefused(f"{shown(url)} redirects to something that is no address") from None


class _Redirect:
    def __init__(self, location: str) -> None:
        self.location = location


def _request(url: str, max_bytes: int) -> bytes | _Redirect:
    parts = _split(url)
    connection = _connect(parts, url)
    deadline = time.monotonic() + TOTAL_SECONDS
    # A socket's timeout starts anew with every byte; this one does not. The socket itself is handed over, since the
    # connection lets go of it when the server announces that it will close.
    watchdog = threading.Timer(TOTAL_SECONDS, _hang_up, [connection.sock])
    watchdog.daemon = True
    watchdog.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "whymatch", "Accept-Encoding": "identity"})
        with connection.getresponse() as response:
            location = response.getheader("Location")
            if response.status in _REDIRECTS and location:
                return _Redirect(location)
            _check_status(response.status, url)
            body = _body(response, max_bytes, url)
        if time.monotonic() < deadline:
            return body
        raise TimeoutError
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = f"after {TOTAL_SECONDS:g} seconds" if time.monotonic() >= deadline else type(error).__name__
        raise StorageFault(f"reading {shown(url)} broke off: {cause}") from None
    finally:
        watchdog.cancel()
        connection.close()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise AddressRefused(f"{shown(url)} is no valid address") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise AddressRefused(f"{shown(url)} is no http(s) address of a host")
    if "@" in parts.netloc:
        raise AddressRefused(f"{shown(url)} holds a user or a password; remove it from the address")
    if not url.isascii() or any(character <= " " for character in url):
        raise AddressRefused(f"{shown(url)} holds characters that an address has to percent-encode")
    return parts


def _connect(parts: SplitResult, url: str) -> http.client.HTTPConnection:
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = _public_address(host, port, url)
    connection = http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
    connection.auto_open = 0  # never by itself, since it would resolve the name again
    try:
        connection.sock = socket.create_connection((address, port), timeout=CONNECT_SECONDS)
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
    except ssl.SSLError as error:
        connection.close()
        raise StorageFault(f"no trusted connection to {shown(url)}: {error.reason}") from None
    except OSError as error:
        connection.close()
        raise StorageFault(f"cannot connect to {shown(url)}: {type(error).__name__}") from None
    return connection


def _public_address(host: str, port: int, url: str) -> str:
    """The address to connect to. getaddrinfo also reads 2130706433, 0x7f.1 and 127.1, so that they are checked too."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise StorageFault(f"the host of {shown(url)} cannot be resolved") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise AddressRefused(
            f"the host of {shown(url)} is, or resolves to, an address that is not public; "
            "images are read from public servers only"
        )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and any IPv4 address inside of it too."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        tunnels = [ip.sixtofour, *(ip.teredo or ())]
        if not all(is_public(str(inner)) for inner in tunnels if inner is not None):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _check_status(status: int, url: str) -> None:
    if status == 200:
        return
    if status in (404, 410):
        raise NotFound(f"nothing lies at {shown(url)} (HTTP {status})")
    if status in (401, 403, 407, 451):
        raise AccessDenied(
            f"the server refuses to give {shown(url)} (HTTP {status}); a signed address may have expired"
        )
    raise StorageFault(f"the server answers HTTP {status} for {shown(url)}")


def _body(response: http.client.HTTPResponse, max_bytes: int, url: str) -> bytes:
    declared = response.length  # None where the server does not say
    if declared is not None and declared > max_bytes:
        raise TooManyBytes(f"{shown(url)} has {declared:,} bytes; {max_bytes:,} are allowed")
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(_CHUNK):
        size += len(chunk)
        if size > max_bytes:
            raise TooManyBytes(f"{shown(url)} has more than the {max_bytes:,} bytes that are allowed")
        parts.append(chunk)
    if declared is not None and size < declared:
        raise StorageFault(f"reading {shown(url)} broke off after {size:,} of {declared:,} bytes")
    return b"".join(parts)


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may have ended by itself
        sock.shutdown(socket.SHUT_RDWR)
