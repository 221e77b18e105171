"""Reads from the web: public servers only, every redirect checked, bounded in bytes and in time."""

from __future__ import annotations

import http.server
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import hostile
from transforms.core.errors import (
    AccessDenied,
    AddressError,
    AddressRefused,
    NotFound,
    StorageFault,
    TooManyBytes,
)
from transforms.storage import public_http

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """A server on the loopback that answers by path and notes every request."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)  # host header, path

    def url(self, path: str, host: str = "images.example") -> str:
        return f"http://{host}:{self.port}{path}"


def body(content: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in ({"Content_Length": str(len(content))} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def redirect(location: str, status: int = 302) -> Answer:
    return body(b"", status, Location=location)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The loopback server as ``images.example``; every other name and address is resolved and checked as ever."""
    found = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.requests.append((self.headers["Host"], self.path))
            found.answers.get(self.path.partition("?")[0], body(b"", 404))(self)

        def log_message(self, *args: Any) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.block_on_close = False
    found.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    checked = public_http._public_address

    def address(host: str, port: int, url: str) -> str:
        return "127.0.0.1" if host == "images.example" else checked(host, port, url)

    monkeypatch.setattr(public_http, "_public_address", address)
    yield found
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_a_public_image_is_read(server: Server) -> None:
    server.answers["/a.jpg"] = body(hostile.jpeg())
    assert public_http.get(server.url("/a.jpg?w=5"), 10_000) == hostile.jpeg()
    assert server.requests == [(f"images.example:{server.port}", "/a.jpg?w=5")]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: Server, status: int) -> None:
    server.answers |= {"/a": redirect("/b", status), "/b": redirect(server.url("/c")), "/c": body(b"image")}
    assert public_http.get(server.url("/a"), 100) == b"image"


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "//127.0.0.1:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://2130706433:{port}/secret",
        "http://user@images.example:{port}/secret",
        "file:///etc/passwd",
        "ftp://images.example/secret",
        "http://[/",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
def test_a_redirect_to_what_is_not_public_is_refused(server: Server, target: str) -> None:
    server.answers |= {"/a": redirect("/b"), "/b": redirect(target.format(port=server.port)), "/secret": body(b"s")}
    with pytest.raises(AddressRefused):
        public_http.get(server.url("/a"), 100)
    assert [path for _, path in server.requests] == ["/a", "/b"]


def test_redirects_end(server: Server) -> None:
    server.answers["/a"] = redirect("/a")
    with pytest.raises(AddressRefused, match="more than 5 redirects"):
        public_http.get(server.url("/a"), 100)
    assert len(server.requests) == 6


def test_bytes_are_capped_by_what_is_declared_and_by_what_comes(server: Server) -> None:
    sent = threading.Event()

    def endless(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            for _ in range(100_000):
                request.wfile.write(b"x" * 4096)
        except OSError:
            sent.set()

    server.answers |= {
        "/declared": body(b"", Content_Length="1000000"),
        "/endless": endless,
        "/exact": body(b"x" * 1000),
        "/over": body(b"x" * 1001),
    }
    with pytest.raises(TooManyBytes, match="has 1,000,000 bytes; 1,000 are allowed"):
        public_http.get(server.url("/declared"), 1000)
    with pytest.raises(TooManyBytes, match="more than the 1,000 bytes"):
        public_http.get(server.url("/endless"), 1000)
    assert sent.wait(5), "the connection was not closed"
    assert len(public_http.get(server.url("/exact"), 1000)) == 1000
    with pytest.raises(TooManyBytes):
        public_http.get(server.url("/over"), 1000)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (410, NotFound),
        (401, AccessDenied),
        (403, AccessDenied),
        (429, StorageFault),
        (503, StorageFault),
    ],
)
def test_a_status_has_its_reason(server: Server, status: int, kind: type[AddressError]) -> None:
    server.answers["/a"] = body(b"no", status)
    with pytest.raises(kind, match=f"HTTP {status}") as caught:
        public_http.get(server.url("/a?sig=topsecret"), 100)
    assert "topsecret" not in str(caught.value)


def test_half_a_body_is_a_fault(server: Server) -> None:
    server.answers["/a"] = body(b"half", Content_Length="8")
    with pytest.raises(StorageFault, match="broke off"):
        public_http.get(server.url("/a"), 100)


def test_an_answer_that_is_no_http_is_a_fault(server: Server) -> None:
    def nonsense(request: http.server.BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"\x16\x03\x01 nonsense\r\n\r\n")

    server.answers["/a"] = nonsense
    with pytest.raises(StorageFault):
        public_http.get(server.url("/a"), 100)


def test_a_dripping_server_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes well within the socket's timeout; all of them would take 20 seconds."""

    sent: list[int] = []

    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(200):
            try:
                request.wfile.write(b"x")
                sent.append(1)
            except OSError:
                return
            time.sleep(0.1)

    server.answers["/a"] = drip
    monkeypatch.setattr(public_http, "TOTAL_SECONDS", 0.5)
    with pytest.raises(StorageFault, match="seconds"):
        public_http.get(server.url("/a"), 1000)
    assert len(sent) < 100, "of twenty seconds only the first were waited for"


def test_a_closed_port_is_a_fault(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StorageFault, match="cannot connect"):
        public_http.get(f"http://images.example:{port}/a", 100)


def test_a_certificate_that_nobody_signed_is_a_fault(server: Server) -> None:
    with pytest.raises(StorageFault, match="trusted connection"):
        public_http.get(f"https://images.example:{server.port}/a", 100)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name is resolved once, and never again by the connection."""
    asked: list[str] = []
    connected: list[tuple[str, int]] = []

    def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        asked.append(host)
        address = "8.8.8.8" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def create_connection(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address)
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    with pytest.raises(StorageFault):
        public_http.get("http://rebind.example/a.jpg", 100)
    assert asked == ["rebind.example"]
    assert connected == [("8.8.8.8", 80)]


def test_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(AddressRefused, match="not public"):
        public_http.get("http://mixed.example/a.jpg", 100)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert public_http.is_public(address)


PRIVATE = (
    "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 255.255.255.255 224.0.0.1 192.0.2.1"
)


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private_addresses_in_every_dress(address: str) -> None:
    number = int(ipaddress.IPv4Address(address))
    dressed = [
        address,
        f"::ffff:{address}",
        str(ipaddress.IPv6Address(number)),
        str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) + number)),
        str(ipaddress.IPv6Address((0x2002 << 112) + (number << 80))),
    ]
    for dress in dressed:
        assert not public_http.is_public(dress), dress


@pytest.mark.parametrize("address", ["::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1"])
def test_private_ipv6_addresses(address: str) -> None:
    assert not public_http.is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_as_public_as_when_mapped(address: ipaddress.IPv4Address) -> None:
    assert public_http.is_public(str(address)) == public_http.is_public(f"::ffff:{address}")
