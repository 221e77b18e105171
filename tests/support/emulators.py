"""Buckets on emulators of S3 and of Google Cloud Storage: fixtures for all tests."""

from __future__ import annotations

import http
import logging
import socket
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a fresh bucket on an S3 emulator at the loopback."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    import s3fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # The emulator's state is the process's: tests in parallel may set this fixture up again.
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=30).close()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "topsecretkey")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem(use_listings_cache=False).mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    """The address of a fresh bucket on a Google storage emulator at the loopback."""
    pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    import gcsfs

    handlers = pytest.importorskip("gcp_storage_emulator.handlers.objects")
    upload = handlers._multipart_upload

    def conditional_upload(request: Any, response: Any, store: Any) -> None:
        """What the emulator lacks: a put for generation 0 fails where the object exists."""
        if request.query.get("ifGenerationMatch") == ["0"]:
            try:
                store.get_file_obj(request.params["bucket_name"], request.data["meta"]["name"])
            except handlers.NotFound:
                pass
            else:
                response.status = http.HTTPStatus.PRECONDITION_FAILED
                return
        upload(request, response, store)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handlers, "_multipart_upload", conditional_upload)
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield "gs://bucket"
        gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    return f"{request.getfixturevalue(request.param)}/{request.node.originalname}"
