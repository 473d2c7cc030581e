"""Paths in S3 buckets. AWS_ENDPOINT_URL and the other variables that boto3 reads hold."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from networks.errors import UserError

if TYPE_CHECKING:  # boto3 takes a while to import, and many searches do without
    from cluster.s3_client import S3Client, Version

SCHEME = "s3"
BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"


class S3Path:
    """An object, or what lies below a prefix: as far as weft needs it like a `pathlib.Path`. A folder is
    whatever has objects below it. An object is there whole or not at all, and a listing shows at once what
    was written. Raises what `S3Client` raises."""

    def __init__(self, bucket: str, key: str = "", shared: "list[S3Client] | None" = None) -> None:
        self.bucket, self.key = bucket, key.strip("/")
        self._shared: list[S3Client] = (
            [] if shared is None else shared
        )  # one for all paths made from this one

    @classmethod
    def of(cls, url: str, field: str = "storage") -> "S3Path":
        """``s3://BUCKET/PREFIX``; `field` is what a refusal names."""
        parts = urlsplit(url)
        if parts.scheme != SCHEME or not parts.netloc or parts.query or parts.fragment:
            raise UserError(
                field, url, "a folder, or s3://BUCKET/PREFIX" if field == "storage" else "s3://BUCKET/PREFIX"
            )
        if not re.fullmatch(BUCKET, parts.netloc):
            fix = "A bucket's name has 3 to 63 of a-z, 0-9, - and ."
            raise UserError(field, url, "s3://BUCKET/PREFIX", fix)
        if any(part in {".", ".."} for part in parts.path.split("/")):
            raise UserError(field, url, "s3://BUCKET/PREFIX without . and .. in it")
        return cls(parts.netloc, parts.path)

    @property
    def _client(self) -> "S3Client":
        if not self._shared:
            from cluster.s3_client import S3Client

            self._shared.append(S3Client(self.bucket))
        return self._shared[0]

    def __str__(self) -> str:
        return f"{SCHEME}://{self.bucket}/{self.key}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Path({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Path, (self.bucket, self.key)  # clients are made where they are used

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Path) and (self.bucket, self.key) == (other.bucket, other.key)

    def __hash__(self) -> int:
        return hash((self.bucket, self.key))

    def __truediv__(self, name: str | PurePosixPath) -> "S3Path":
        return S3Path(self.bucket, f"{self.key}/{name}", self._shared)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "S3Path":
        return S3Path(self.bucket, self.key.rpartition("/")[0], self._shared)

    def with_suffix(self, suffix: str) -> "S3Path":
        return self.parent / PurePosixPath(self.name).with_suffix(suffix)

    def check(self) -> None:
        """Raise `UserError` unless it can be listed and written to. Leaves nothing there."""
        self._client.check(self.key)

    def read_bytes(self) -> bytes:
        return self._client.get(self.key)

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, body: bytes) -> None:
        """Replaces what was there. Of several writers one wins."""
        self._client.put(self.key, body)

    def upload(self, file: Path, digest: str) -> None:
        """Write a file of any size, with its SHA-256 noted."""
        self._client.upload(file, self.key, digest)

    def download(self, file: Path) -> None:
        """Into a file, at any size."""
        self._client.download(self.key, file)

    def put_if(self, body: bytes, tag: str | None) -> str | None:
        """Write unless it has changed since it had this tag (None: unless it is there). The new tag, or None
        when it was not written."""
        return self._client.put_if(self.key, body, tag)

    def version(self) -> "Version":
        return self._client.version(self.key)

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok:
            self.version()
        self._client.delete(self.key)

    def files(self) -> Iterator[tuple["S3Path", int]]:
        """All objects at any depth below, with their sizes in bytes; none that only marks a folder."""
        for one in self._client.listed(self._below):
            assert one.size is not None, "a listing without delimiter has objects only"
            if one.key.endswith("/"):
                continue
            yield S3Path(self.bucket, one.key, self._shared), one.size

    def unlink_below(self) -> None:
        """Delete all objects at any depth below."""
        for one in self._client.listed(self._below):  # by their keys: others may mark folders by x/
            self._client.delete(one.key)

    def is_file(self) -> bool:
        try:
            self.version()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        return any(True for _ in self.iterdir())

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["S3Path"]:
        """Objects and folders directly below."""
        for one in self._client.listed(self._below, "/"):
            name = one.key[len(self._below) :].strip("/")
            if name:  # a marker of the folder itself has none
                yield self / name

    @property
    def _below(self) -> str:
        return f"{self.key}/" if self.key else ""

    def glob(self, pattern: str) -> Iterator["S3Path"]:
        """Of what lies directly below."""
        assert "/" not in pattern
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))
