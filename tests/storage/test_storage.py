"""What may be opened, how it is read under limits, how a result is published: on disk, on S3 and Google emulators."""

from __future__ import annotations

import errno
import importlib.util
import logging
import multiprocessing
import os
import socket
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import hostile
from transforms import storage
from transforms.core import errors
from transforms.storage import Access, drivers

IMAGE = hostile.jpeg()

_opened: list[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event in ("open", "os.open") and isinstance(arguments[0], str):
        _opened.append(os.path.realpath(arguments[0]))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The real paths of all files that Python opens during the test."""
    global _opened
    if not getattr(_note, "installed", False):
        sys.addaudithook(_note)  # cannot be taken away again
        _note.installed = True  # type: ignore[attr-defined]
    _opened = []
    yield _opened
    _opened = None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "catalogue"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(IMAGE)
    return folder


# Untrusted addresses on this machine


def test_an_image_under_a_root_is_read(root: Path) -> None:
    access = Access(roots=(str(root),))
    assert storage.read_image(f"{root}/a.jpg", access) == IMAGE
    assert storage.read_image(f"file://{root}/a.jpg", access) == IMAGE
    (root / "b c%41.jpg").write_bytes(b"1")
    assert storage.read_image(f"{root}/b c%41.jpg", access) == b"1"
    (root / "inside.jpg").symlink_to(root / "a.jpg")
    assert storage.read_image(f"{root}/inside.jpg", access) == IMAGE
    (root.parent / "alias").symlink_to(root)
    assert storage.read_image(f"{root.parent}/alias/a.jpg", access) == IMAGE
    assert storage.read_image(f"{root}/a.jpg", Access(roots=(f"{root.parent}/alias", "/nowhere"))) == IMAGE
    assert storage.read_image(f"{root}/a.jpg", Access(roots=("/",))) == IMAGE


def test_nothing_local_is_read_without_a_root(root: Path) -> None:
    with pytest.raises(errors.AddressRefused, match="folder that may be read"):
        storage.read_image(f"{root}/a.jpg", Access())
    with pytest.raises(errors.AddressRefused):
        storage.read_image(f"{root}/a.jpg", Access(roots=(f"{root}/a",)))  # no sibling by a common prefix


def test_bytes_are_capped(root: Path) -> None:
    size = len(IMAGE)
    assert storage.read_image(f"{root}/a.jpg", Access((str(root),), max_bytes=size)) == IMAGE
    with pytest.raises(errors.TooManyBytes, match=f"has {size:,} bytes; {size - 1:,} are allowed"):
        storage.read_image(f"{root}/a.jpg", Access((str(root),), max_bytes=size - 1))


def test_bytes_are_capped_while_reading() -> None:
    """A file whose size is given as 0."""
    with pytest.raises(errors.TooManyBytes, match="more than the 2 bytes"):
        storage.read_image("/proc/version", Access(("/proc",), max_bytes=2))


@pytest.mark.parametrize("kind", ["missing", "under_a_file", "folder", "pipe", "loop", "long", "device"])
def test_what_is_no_file_has_its_reason(root: Path, kind: str) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    (root / "loop").symlink_to(root / "loop")
    cases: dict[str, tuple[str, type[errors.AddressError]]] = {
        "missing": (f"{root}/missing.jpg", errors.NotFound),
        "under_a_file": (f"{root}/a.jpg/b.jpg", errors.NotFound),
        "folder": (f"{root}/folder", errors.AddressRefused),
        "pipe": (f"{root}/pipe", errors.AddressRefused),
        "loop": (f"{root}/loop", errors.AddressRefused),
        "long": (f"{root}/{'x' * 300}", errors.AddressRefused),
        "device": ("/dev/zero", errors.AddressRefused),
    }
    address, expected = cases[kind]
    with pytest.raises(expected):
        storage.read_image(address, Access((str(root), "/dev")))


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EACCES, errors.AccessDenied), (errno.EIO, errors.StorageFault), (errno.ENOENT, errors.NotFound)],
)
def test_a_failing_open_has_its_reason(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[errors.AddressError]
) -> None:
    def failing(path: str, *arguments: Any, **options: Any) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(expected) as caught:
        storage.read_image(f"{root}/a.jpg", Access((str(root),)))
    assert caught.value.retryable == (number == errno.EIO)


@pytest.mark.parametrize("allow_http", [False, True])
def test_hostile_addresses_read_nothing(tmp_path: Path, opened: list[str], allow_http: bool) -> None:
    """P12: a canary file and a recording server; 0 reads, 0 connections, and each address an AddressError."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (tmp_path / "root-sibling").mkdir()
    canary = outside / "canary.jpg"
    for path in (canary, tmp_path / "root-sibling" / canary.name):
        path.write_bytes(IMAGE)
    connections: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_accept, args=(server, connections), daemon=True)
        thread.start()
        port = server.getsockname()[1]
        addresses = hostile.hostile_addresses(root, canary, port)
        base = f"{root}/manifest.csv"
        access = Access(roots=(str(root),), allow_http=allow_http)
        opened.clear()
        for address in [*addresses, *(storage.resolve(address, base) for address in addresses)]:
            with pytest.raises(errors.AddressError) as caught:
                storage.read_image(address, access)
            assert str(caught.value).isprintable()
            assert "secret" not in str(caught.value)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(addresses) > 130
    assert connections == []
    allowed = str(root)
    unrelated = [path for path in opened if not path.startswith((allowed, sys.prefix, sys.base_prefix))]
    assert [path for path in unrelated if "canary" in path or path.startswith(("/proc", "/dev", "/etc/passwd"))] == []


def _accept(server: socket.socket, connections: list[Any]) -> None:
    try:
        while True:
            connection, peer = server.accept()
            connections.append(peer)
            connection.close()
    except OSError:
        return


def test_http_has_to_be_asked_for() -> None:
    for address in ("http://example.com/a.jpg", "https://example.com/a.jpg"):
        with pytest.raises(errors.AddressRefused, match=r"allowed are local paths, gs, s3$"):
            storage.read_image(address, Access())
        with pytest.raises(errors.AddressRefused):
            storage.read_image(address, Access(schemes=("http", "https")))


def test_a_missing_driver_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("s3fs", "gcsfs") else found(name))
    for scheme, driver in (("s3", "s3fs"), ("gs", "gcsfs")):
        with pytest.raises(errors.MissingDependency, match=f"pip install {driver}"):
            storage.read_file(f"{scheme}://bucket/manifest.csv")
        # One row of a manifest must not stop the others.
        with pytest.raises(errors.AddressRefused, match=f"pip install {driver}"):
            storage.read_image(f"{scheme}://bucket/a.jpg", Access())
    with pytest.raises(errors.MissingDependency, match="no driver for nonsense://"):
        storage.exists("nonsense://bucket/a")


# Trusted addresses on this machine


def test_trusted_files_are_read(root: Path) -> None:
    assert storage.read_file(f"{root}/a.jpg") == IMAGE
    assert storage.read_file(f"file://{root}/a.jpg", max_bytes=len(IMAGE)) == IMAGE
    with storage.open_file(f"{root}/../catalogue/a.jpg") as stream:
        stream.seek(2)
        assert stream.read(3) == IMAGE[2:5]


def test_what_is_wrong_with_a_trusted_file_is_a_usage_error(root: Path) -> None:
    with pytest.raises(errors.UsageError, match="nothing lies at"):
        storage.read_file(f"{root}/missing")
    with pytest.raises(errors.UsageError, match="is a folder"):
        storage.read_file(str(root))
    with pytest.raises(errors.UsageError, match="more than the 10 bytes"):
        storage.read_file(f"{root}/a.jpg", max_bytes=10)
    with pytest.raises(errors.UsageError, match="no path"):
        storage.read_file(f"{root}/a\0")


def test_the_body_s_own_error_stays_its_own(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), storage.open_file(f"{root}/a.jpg"):
        raise FileNotFoundError("mine")


def test_expand_and_list(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt", "x/d.csv", "x[1].csv", ".hidden/e.csv", "x/.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "folder.csv").mkdir()

    def names(found: list[str]) -> list[str]:
        return [os.path.relpath(path, tmp_path) for path in found]

    assert names(storage.expand(f"{tmp_path}/*.csv")) == ["a.csv", "b.csv", "x[1].csv"]
    assert names(storage.expand(f"{tmp_path}/**/*.csv")) == ["a.csv", "b.csv", "x/d.csv", "x[1].csv"]
    assert names(storage.expand(f"{tmp_path}/a.csv")) == ["a.csv"]
    assert names(storage.expand(f"file://{tmp_path}/x[1].csv")) == ["x[1].csv"]
    with pytest.raises(errors.AddressPatternError, match="no file matches"):
        storage.expand(f"{tmp_path}/*.parquet")
    with pytest.raises(errors.AddressPatternError, match=r"It is a folder: add /\*"):
        storage.expand(str(tmp_path))
    assert names(storage.list_files(str(tmp_path))) == ["a.csv", "b.csv", "c.txt", "x/d.csv", "x[1].csv"]
    assert storage.list_files(f"{tmp_path}/missing") == []
    assert storage.exists(str(tmp_path))
    assert storage.exists(f"file://{tmp_path}/a.csv")
    assert not storage.exists(f"{tmp_path}/missing")


# Publishing on this machine


def test_publish_writes_once(tmp_path: Path) -> None:
    address = f"{tmp_path}/runs/run_id=r1/part-0.parquet"
    storage.publish(address, b"first")
    with pytest.raises(storage.AlreadyPublished, match="exists already"):
        storage.publish(address, b"second")
    assert Path(address).read_bytes() == b"first"
    assert os.listdir(Path(address).parent) == ["part-0.parquet"]  # no private file stays
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(os.stat(address).st_mode) == 0o666 & ~mask
    assert os.stat(address).st_nlink == 1


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.RunError, match="No space left"):
        storage.publish(f"{tmp_path}/a", b"1")
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_of_the_folder_is_no_published_result(tmp_path: Path) -> None:
    (tmp_path / "runs").write_bytes(b"")
    with pytest.raises(errors.RunError, match="cannot write") as caught:
        storage.publish(f"{tmp_path}/runs/a", b"1")
    assert not isinstance(caught.value, storage.AlreadyPublished)


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    address = tmp_path / "a"
    data = os.urandom(8 * 2**20)
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if address.exists():
                seen.append(len(address.read_bytes()))

    thread = threading.Thread(target=watch)
    thread.start()
    storage.publish(str(address), data)
    done.set()
    thread.join()
    assert set(seen) <= {len(data)}


def test_storage_without_a_conditional_put_is_refused() -> None:
    with pytest.raises(errors.UsageError, match=r"results go to a local folder, to s3:// or to gs://"):
        storage.publish("memory://out/a", b"1")


def _race(arguments: tuple[str, bytes]) -> bool:
    address, data = arguments
    try:
        storage.publish(address, data)
    except storage.AlreadyPublished:
        return False
    return True


def test_of_two_processes_one_wins(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for number in range(50):
            address = f"{tmp_path}/{number}"
            won = pool.map(_race, [(address, b"a" * 1000), (address, b"b" * 1000)], chunksize=1)
            assert sorted(won) == [False, True]
            assert Path(address).read_bytes() == (b"a" if won[0] else b"b") * 1000


# Object storage, on emulators


def test_objects_are_published_once_and_read(bucket: str) -> None:
    address = f"{bucket}/images/a b%.jpg"
    storage.publish(address, IMAGE)
    with pytest.raises(storage.AlreadyPublished, match="exists already"):
        storage.publish(address, b"second")
    assert storage.read_image(address, Access()) == IMAGE
    assert storage.read_file(address) == IMAGE
    assert storage.exists(address)
    assert storage.exists(bucket)
    assert not storage.exists(f"{bucket}/missing")
    with storage.open_file(address) as stream:
        stream.seek(-2, os.SEEK_END)
        assert stream.read() == IMAGE[-2:]
        stream.seek(0)
        assert stream.read(3) == IMAGE[:3]


def test_objects_are_capped_and_missing_ones_named(bucket: str) -> None:
    storage.publish(f"{bucket}/a.jpg", IMAGE)
    storage.publish(f"{bucket}/empty.jpg", b"")
    assert storage.read_image(f"{bucket}/empty.jpg", Access()) == b""
    assert storage.read_image(f"{bucket}/a.jpg", Access(max_bytes=len(IMAGE))) == IMAGE
    with pytest.raises(errors.TooManyBytes, match="bytes; 100 are allowed"):
        storage.read_image(f"{bucket}/a.jpg", Access(max_bytes=100))
    with pytest.raises(errors.NotFound, match="nothing lies at"):
        storage.read_image(f"{bucket}/missing.jpg", Access())
    with pytest.raises(errors.NotFound):
        storage.read_image(bucket, Access())  # a folder
    with pytest.raises(errors.NotFound):
        storage.read_image(f"{bucket.partition('://')[0]}://no-such-bucket/a.jpg", Access())
    with pytest.raises(errors.UsageError, match="nothing lies at"):
        storage.read_file(f"{bucket}/missing.csv")


def test_objects_are_expanded_and_listed(bucket: str) -> None:
    names = ["a.csv", "b.csv", "run_id=r1/part-0.parquet", "x/c.csv"]
    for name in names:
        storage.publish(f"{bucket}/{name}", b"1")
    storage.publish(f"{bucket}/.hidden/d.csv", b"1")
    assert storage.expand(f"{bucket}/*.csv") == [f"{bucket}/a.csv", f"{bucket}/b.csv"]
    assert storage.expand(f"{bucket}/x/c.csv") == [f"{bucket}/x/c.csv"]
    assert storage.list_files(bucket) == [f"{bucket}/{name}" for name in names]
    assert storage.list_files(f"{bucket}/missing") == []
    for pattern in ("*.parquet", "missing.csv", "x"):
        with pytest.raises(errors.AddressPatternError, match="no file matches"):
            storage.expand(f"{bucket}/{pattern}")
    # What another writer adds is seen.
    storage.publish(f"{bucket}/c.csv", b"1")
    assert storage.expand(f"{bucket}/*.csv")[-1] == f"{bucket}/c.csv"


def test_of_many_writers_of_an_object_one_wins(bucket: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for number in range(5):
            address = f"{bucket}/{number}"
            won = list(pool.map(_race, [(address, bytes([writer])) for writer in range(4)]))
            assert sum(won) == 1
            assert storage.read_file(address) == bytes([won.index(True)])


def fail_with(monkeypatch: pytest.MonkeyPatch, address: str, error: Exception) -> None:
    """Makes the driver of ``address`` answer every question with ``error``."""

    def broken(*arguments: Any, **options: Any) -> None:
        raise error

    files, _ = drivers.filesystem(address)  # drivers keep one instance for equal options
    monkeypatch.setattr(files, "info", broken)


def test_denied_objects_name_bucket_and_action(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError("User AKIAIOSFODNN7EXAMPLE with topsecretkey is not authorized")
    fail_with(monkeypatch, f"{s3}/a", denied)
    with pytest.raises(errors.AccessDenied) as untrusted:
        storage.read_image(f"{s3}/a.jpg", Access())
    with pytest.raises(errors.UsageError) as trusted:
        storage.expand(f"{s3}/a.jpg")
    for caught in (untrusted, trusted):
        message = str(caught.value)
        assert message.startswith(
            "bucket s3://bucket refuses to read s3://bucket/a.jpg; give the worker an AWS identity"
        )
        assert message.endswith("and allow it s3:GetObject and s3:ListBucket")
        assert "AKIA" not in message
        assert "topsecretkey" not in message


def test_what_may_not_be_written_breaks_the_run(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.RunError, match="there is no bucket s3://no-such-bucket; create it"):
        storage.publish("s3://no-such-bucket/a", b"1")

    def denied(*arguments: Any, **options: Any) -> None:
        raise PermissionError("topsecretkey")

    monkeypatch.setattr(drivers.filesystem(f"{s3}/a")[0], "pipe_file", denied)
    with pytest.raises(errors.RunError, match=r"refuses to write s3://bucket/a; .* allow it s3:PutObject"):
        storage.publish(f"{s3}/a", b"1")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NoCredentialsError", errors.AccessDenied),
        ("DefaultCredentialsError", errors.AccessDenied),
        ("HttpError 403", errors.AccessDenied),
        ("Forbidden", errors.AccessDenied),
        ("HttpError 404", errors.NotFound),
        ("HttpError 503", errors.StorageFault),
        ("EndpointConnectionError", errors.StorageFault),
        ("TimeoutError", errors.StorageFault),
    ],
)
def test_drivers_errors_have_their_reason_and_lose_their_text(
    s3: str, monkeypatch: pytest.MonkeyPatch, kind: str, expected: type[errors.AddressError]
) -> None:
    """P11: the error, its message, its traceback: the driver's text is in none of them."""
    name, _, code = kind.partition(" ")
    text = "https://user:topsecretkey@host/a?X-Amz-Signature=0123456789abcdef"
    error: Exception = OSError(f"Forbidden: {text}") if name == "Forbidden" else type(name, (Exception,), {})(text)
    if code:
        error.code = int(code)  # type: ignore[attr-defined]

    fail_with(monkeypatch, f"{s3}/a", error)
    address = f"{s3}/a.jpg?X-Amz-Signature=0123456789abcdef"  # on a line that no traceback shows
    with pytest.raises(expected) as caught:
        storage.read_image(address, Access())
    lines = "".join(traceback.format_exception(caught.value))
    for secret in ("topsecretkey", "0123456789abcdef", "user:"):
        assert secret not in str(caught.value)
        assert secret not in lines
    assert caught.value.retryable == (expected is errors.StorageFault)


def test_a_fault_while_a_trusted_stream_is_read_breaks_the_run(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    storage.publish(f"{s3}/stream.csv", b"x" * 100)

    def broken(self: Any, start: int, end: int) -> bytes:
        raise TimeoutError("https://user:topsecretkey@host")

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", broken)
    failed = r"cannot read s3://bucket/stream\.csv \(TimeoutError\)"
    with storage.open_file(f"{s3}/stream.csv") as stream, pytest.raises(errors.RunError, match=failed) as caught:
        stream.read()
    assert "topsecretkey" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIAIOSFODNN7EXAMPLE:topsecretkey@bucket/a.jpg",
        "s3://bucket/a.jpg?X-Amz-Signature=0123456789abcdef&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE",
        "https://user:topsecretkey@127.0.0.1/a.jpg",
        "https://127.0.0.1/a.jpg?Signature=0123456789abcdef",
        "ftp://user:topsecretkey@host/a.jpg",
        "simplecache::s3://AKIAIOSFODNN7EXAMPLE:topsecretkey@bucket/a.jpg",
        "https://user:topsecretkey@host/../a.jpg?sig=0123456789abcdef",
        "https://user:topsecretkey @host\n/a.jpg",
        "/data/a.jpg?X-Amz-Signature=0123456789abcdef",
        "nonsense://user:topsecretkey@bucket/a.jpg",
    ],
)
def test_no_secret_of_an_address_leaves(s3: str, address: str, caplog: pytest.LogCaptureFixture) -> None:
    """P11, on whymatch's own paths: message, traceback and log of a failing read, untrusted and trusted."""
    actions: list[Callable[[], object]] = [lambda: storage.read_image(address, Access(allow_http=True))]
    if not address.startswith(("https://", "ftp://")):  # fsspec would ask these servers
        actions += [lambda: storage.expand(address), lambda: storage.read_file(address)]
    texts = [caplog.text]
    with caplog.at_level(logging.INFO):
        for action in actions:
            with pytest.raises(errors.WhymatchError) as caught:
                action()
            texts += [str(caught.value), repr(caught.value), *traceback.format_exception(caught.value), caplog.text]
    for secret in ("topsecretkey", "0123456789abcdef", "AKIAIOSFODNN7EXAMPLE"):
        assert secret not in "".join(texts)
