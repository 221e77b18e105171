"""Takes credentials out of text that may hold addresses, before it reaches a log, a table or a message.

Where a text is ambiguous, more of it goes: a lost host name costs a look into the manifest, a leaked key its rotation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MASK = "***"
_LONGEST_SHOWN = 8192

# A run of non-space text that begins with a scheme, up to the next scheme: addresses are often listed with commas.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,30}://"  # bounded, so that the time stays linear in the text
_URL = re.compile(rf"({_SCHEME})((?:(?!{_SCHEME})\S)*)")
# another scheme within an address, behind what may be a user and a colon: in a password, for all one can tell
_GLUED = re.compile(rf"({_SCHEME})[^\s:/@\[]+:[^\s\"'`,;|)}}>\]]*?{_SCHEME}")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]*\]|[^\[\]:@]*)(?::\d*)?[\"'`,;)}>\]]*")
_BUCKETS = ("s3://", "gs://")  # their keys may hold a '#'; elsewhere it starts a fragment, which may hold a token

_NAMES = (
    r"x-amz-[a-z-]*(?:signature|credential|token)|x-goog-(?:signature|credential)|signature|sig|awsaccesskeyid|"
    r"googleaccessid|key-pair-id|(?:[a-z0-9]{1,32}[_-]){0,4}(?:token|password|passwd|pwd|secret|api[_-]?key|"
    r"access[_-]?key(?:[_-]?id)?|account[_-]?key|private[_-]?key|credentials?)"
)
_GIVEN = rf"((?<![a-z0-9])(?:{_NAMES})[\"']?\s*(?:[=:]|%3d|%3a)\s*)"  # a name with its = or :


@dataclass(frozen=True)
class _Secret:
    """A form of secret: a pattern, its replacement, and words (lower case) of which every match has one.

    Most texts have none of the words, and a search for a word is far cheaper than a pattern: tables hold millions of
    addresses.
    """

    words: tuple[str, ...]
    pattern: re.Pattern[str]
    replacement: str


def _secret(words: str, pattern: str, replacement: str = MASK, flags: int = 0) -> _Secret:
    return _Secret(tuple(words.split(",")), re.compile(pattern, flags), replacement)


_IN_NAMES = "sig,token,credential,key,passw,pwd,secret,googleaccessid"
_I = re.IGNORECASE
# Strict enough to leave file names alone: "basic tee.jpg" is no authorization, "sk-linen-shirt-xl" no key.
_SECRETS = (
    _secret("private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", flags=re.S),
    _secret("authoriz", r"\b(authorization[\"']?\s*[=:]\s*[\"']?)(?:[A-Za-z0-9-]+\s+)?\S+", rf"\1{MASK}", _I),
    _secret("bearer", r"\b(bearer)\s+\S{8,}", rf"\1 {MASK}", _I),
    _secret(_IN_NAMES, rf"{_GIVEN}\"[^\"]*\"", rf'\1"{MASK}"', _I),
    _secret(_IN_NAMES, rf"{_GIVEN}'[^']*'", rf"\1'{MASK}'", _I),
    _secret(_IN_NAMES, rf"{_GIVEN}(?![\"']\*\*\*[\"'])[^\s&]+", rf"\1{MASK}", _I),
    # AWS key ids; JSON web tokens; Google's API keys, OAuth tokens and HMAC key ids; tokens with a vendor's prefix
    _secret("akia,asia,aroa,aida,abia,acca", r"(?<![A-Z0-9])(?:AKIA|ASIA|AROA|AIDA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])"),
    _secret("eyj", r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"),
    _secret("aiza", r"\bAIza[\w-]{30,}"),
    _secret("ya29.", r"\bya29\.[\w.-]{10,}"),
    _secret("goog", r"\bGOOG[0-9A-Z]{16,}"),
    _secret("gh,hf_,npm_,sk-", r"\b(?:gh[pousr]_|github_pat_|hf_|npm_|sk-)\w{24,}"),
    _secret("glpat-,xox", r"\bglpat-[\w-]{16,}|\bxox[abeprs]-[\w-]{16,}"),
    _secret("@", r"(?<![^\s\"'(=,/])[^\s:/@\"'(=,]+:[^\s:/@]+@(?=[\w\[])", f"{MASK}@"),  # user:password@host
)


def redact(text: str) -> str:
    """``text`` without the user, password, query string and fragment of any address in it, and without known secrets.

    Idempotent. Paths and bucket names stay: they are what makes a message useful.
    """
    if "://" in text:
        text = _URL.sub(_bare, _GLUED.sub(rf"\1{MASK}", text))
    return _without_known_secrets(text)


def _without_known_secrets(text: str) -> str:
    lower = text.lower()
    for secret in _SECRETS:
        if any(word in lower for word in secret.words):
            text = secret.pattern.sub(secret.replacement, text)
    return text


def shown(address: str, limit: int = 300) -> str:
    """One address as a message may show it: redacted, on one line, control characters escaped, cut to ``limit``.

    Unlike free text, all of it is the address, white space too.
    """
    if len(address) > _LONGEST_SHOWN:  # cut earlier than redacted, it could lose the @ that tells a password
        return f"an address of {len(address):,} characters"
    line = _without_known_secrets(address)
    if " " in line or not line.isprintable():
        line = "".join(_escaped(character) for character in line)
    line = redact(line)
    return line if len(line) <= limit else f"{line[:limit]}... ({len(address):,} characters)"


def _escaped(character: str) -> str:
    if character == " ":
        return "%20"
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def _bare(match: re.Match[str]) -> str:
    scheme, rest = match.groups()
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    _, at, host = authority.rpartition("@")
    if "@" in tail and (at or ":" in authority):
        return scheme + MASK  # a password that holds a slash, or an @ further on: nobody can tell
    if not _HOST.fullmatch(host):
        return scheme + MASK
    if at:
        authority = f"{MASK}@{host}"
    cut = re.search(r"\?" if scheme.lower() in _BUCKETS else r"[?#]", tail)
    return scheme + authority + (tail if cut is None else f"{tail[: cut.start()]}{cut[0]}{MASK}")
