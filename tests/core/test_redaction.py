"""P11: no secret leaves. Texts that hold a secret, in the ways that addresses and drivers' errors hold them."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transforms.core.redaction import redact, shown

URL_SAFE = string.ascii_letters + string.digits + "-_.~%+=!$*"
SECRETS = st.text(URL_SAFE, min_size=8, max_size=60)
PASSWORDS = st.text(URL_SAFE + "/?#:@", min_size=8, max_size=60)

WITH_PASSWORD = [
    "s3://AKIAEXAMPLE:{}@bucket/folder/a.jpg",
    "https://user:{}@images.example/a.jpg",
    "cannot open 'https://user:{}@images.example:8080/a.jpg?x=1': timed out",
    "gs://user:{}@bucket/a@2x.jpg",
    "ftp://u:{}@h,https://other.example/b.jpg",
    "simplecache::s3://key:{}@bucket/a.jpg",
]
WITH_SECRET = [
    *WITH_PASSWORD,
    "https://{}@images.example/a.jpg",
    "https://images.example/a.jpg?X-Amz-Credential=AKIA&X-Amz-Signature={}&X-Amz-Date=1",
    "https://storage.googleapis.com/b/a.jpg?X-Goog-Signature={}",
    "https://account.blob.core.windows.net/c/a.jpg?sv=2020&sig={}",
    "https://images.example/a.jpg#access_token={}",
    "s3://bucket/a.jpg?versionId=1&token={}",
    "gs://bucket/a.jpg?token={}",
    "HTTPS://images.example/a.jpg?SIG={}",
    "<https://images.example/a.jpg?sig={}>",
    "ClientError: GET https://h.example/a?Signature={} -> 403 (https://h.example/b?Signature={})",
    "aws_secret_access_key={}",
    "AWS_SECRET_ACCESS_KEY = {}",
    "{{'secret': '{}', 'key': 'AKIA'}}",
    '{{"api_key": "{}"}}',
    "password: {}",
    "AccountKey={};EndpointSuffix=core.windows.net",
    "Authorization: Bearer {}",
    "authorization=Basic {}",
    "images/a.jpg?X-Amz-Signature={}",
    "X-Amz-Security-Token%3D{}",
]


@settings(max_examples=60)
@pytest.mark.parametrize("template", WITH_SECRET)
@given(secret=SECRETS)
@example(secret="wJalrXUtnFEMI+K7MDENG=bPxRfiCYEXAMPLEKEY")
def test_no_secret_stays(template: str, secret: str) -> None:
    text = template.format(secret, secret)
    for made in (redact(text), shown(text)):
        assert_no_part_of(secret, made, template)
        assert redact(made) == made


@settings(max_examples=100)
@pytest.mark.parametrize("template", WITH_PASSWORD)
@given(secret=PASSWORDS)
@example(secret="abc/def+ghi/jkl")
@example(secret="8080/abcdefgh")
@example(secret="p@ss:w?rd#x/y@z")
@example(secret="0000A://")
@example(secret="00A00://")
@example(secret="00/0000A://")
def test_no_password_stays_that_was_not_encoded(template: str, secret: str) -> None:
    """AWS keys hold slashes; people paste passwords with ?, # and @ as they are."""
    for made in (redact(template.format(secret)), shown(template.format(secret))):
        assert_no_part_of(secret, made, template)


def assert_no_part_of(secret: str, text: str, template: str) -> None:
    """No run of six characters of the secret is in the text, but for what its ``template`` holds anyway."""
    anyway = template.replace("{}", "")
    for start in range(len(secret) - 5):
        part = secret[start : start + 6]
        assert part not in text or part in anyway


@settings(max_examples=100)
@given(secret=st.text(min_size=8, max_size=40))
def test_an_address_is_shown_on_one_line_without_its_secret(secret: str) -> None:
    """All of an address is the address: white space and control characters do not end its password."""
    made = shown(f"https://user:{secret}@images.example/a.jpg?sig={secret}")
    assert secret not in made.replace("https://***@images.example/a.jpg?***", "")
    assert made.isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/folder/a.jpg", "s3://bucket/folder/a.jpg"),
        ("/data/images/a b.jpg", "/data/images/a b.jpg"),
        ("https://h.example:8080/a.jpg", "https://h.example:8080/a.jpg"),
        ("http://[2001:db8::1]:80/a.jpg", "http://[2001:db8::1]:80/a.jpg"),
        ("gs://bucket/a@2x.jpg and s3://b/c", "gs://bucket/a@2x.jpg and s3://b/c"),
        ("s3://bucket/photo#1.jpg", "s3://bucket/photo#1.jpg"),
        ("https://u:p@h.example/a.jpg", "https://***@h.example/a.jpg"),
        ("https://h.example/a.jpg?b=1#c", "https://h.example/a.jpg?***"),
        ("see https://h.example/a.jpg#c now", "see https://h.example/a.jpg#*** now"),
        ("s3://u:a/b@bucket/k", "s3://***"),
        ("user:password@host.example", "***@host.example"),
        ("at 12:30 mail a@b.example", "at 12:30 mail a@b.example"),
        ("key AKIAIOSFODNN7EXAMPLE is wrong", "key *** is wrong"),
        ("/data/basic tee.jpg", "/data/basic tee.jpg"),
        ("s3://shop/sk-linen-shirt-extra-long-2024.jpg", "s3://shop/sk-linen-shirt-extra-long-2024.jpg"),
        ("ASIANFASHIONSTORE.jpg", "ASIANFASHIONSTORE.jpg"),
        ('{"token": "a b", "id": 7}', '{"token": "***", "id": 7}'),
        ("20 images, reason: not_found", "20 images, reason: not_found"),
        ("", ""),
    ],
)
def test_what_stays(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAY34FZKBOKMUTVV7A",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "ya29.a0AfH6SMBx1234567890",
        "GOOG1EABCDEFGHIJKLMNOP",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "glpat-abcdefghij0123456789",
        "xoxb-1234567890-abcdefghij",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIEow",
    ],
)
def test_secrets_known_by_their_form(secret: str) -> None:
    made = redact(f"before {secret} after")
    assert secret not in made
    assert "MIIEow" not in made
    assert made.startswith("before ***")


def test_shown_cuts_and_escapes() -> None:
    assert shown("s3://b/" + "x" * 1000).endswith("... (1,007 characters)")
    assert shown("s3://b/" + "x" * 100_000) == "an address of 100,007 characters"
    assert len(shown("\0" * 8000)) < 400
    assert shown("a\n\x1b[31m\u202eb c") == "a\\n\\x1b[31m\\u202eb%20c"


@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000,
        "a_" * 100_000,
        "a://" * 50_000,
        "a:b" * 70_000,
        "token=" * 30_000,
        "eyJaaaaaaaaa." * 15_000,
        "http://a:" * 20_000,
        "-----BEGIN PRIVATE KEY-----" * 7_000,
        "bearer " * 30_000,
        " " * 200_000,
        "sig" + " " * 200_000,
    ],
)
def test_time_is_linear_in_the_text(text: str) -> None:
    start = time.process_time()
    redact(text)
    assert time.process_time() - start < 3
