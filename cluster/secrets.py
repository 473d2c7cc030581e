"""Keeping passwords, tokens and keys out of what is written down or said."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

SECRET = re.compile(r"passw|secret|token|credential|api_?key|access_?key", re.IGNORECASE)


def holds_secret(uri: str) -> bool:
    """Whether an address says a password, or anything that is named like a secret."""
    parts = urlsplit(uri)
    return bool(parts.password or SECRET.search(parts.query))


def redacted(uri: str) -> str:
    """The URI without user, password and query."""
    head, mark, rest = uri.partition("://")
    if not mark or head.startswith("sqlite"):
        return uri
    netloc, slash, path = rest.partition("/")
    return f"{head}://{netloc.rpartition('@')[2]}{slash}{path}".split("?")[0]


def clean(text: str, uri: str) -> str:
    """`text` without the user, password and query of `uri`, in whatever form they are quoted."""
    text = text.replace(uri, redacted(uri))
    parts = urlsplit(uri)
    userinfo = parts.netloc.rpartition("@")[0]
    if parts.scheme.startswith("sqlite"):
        return text
    for secret in (userinfo, unquote(userinfo), parts.password, unquote(parts.password or ""), parts.query):
        if secret:
            text = text.replace(secret, "***")
    return text


def without_secrets(value: Any) -> Any:
    """Nested data without entries that are named like secrets and without passwords in addresses."""
    if isinstance(value, Mapping):
        return {key: without_secrets(inner) for key, inner in value.items() if not SECRET.search(str(key))}
    if isinstance(value, list):
        return [without_secrets(inner) for inner in value]
    return redacted(value) if isinstance(value, str) and "://" in value else value
