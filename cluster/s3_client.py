"""Requests to S3, tried again while they may yet succeed, and their errors in words.

What boto3 sends and receives it checks by CRC32. Failures that pass (5xx, throttling, silence) are borne for
`PATIENCE_S`.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from networks.errors import CannotGoOn, UserError

log = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE_S = 300.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
CONNECT_S, READ_S = 5.0, 30.0
CONFLICTS = 10  # tries while another one writes the same object
PAGE = 1000  # names a request: the most that S3 gives
PARTS = TransferConfig(multipart_threshold=32 * 2**20, multipart_chunksize=16 * 2**20, max_concurrency=4)
MARK, DIGEST = "weft-mark", "weft-sha256"
# What another try of the same request may change, beside all of 5xx.
PASSING = frozenset({"RequestTimeout", "RequestTimeTooSkewed", "SlowDown", "Throttling", "TooManyRequests"})
TAKEN = frozenset({"PreconditionFailed", "412"})
CONFLICT = frozenset({"ConditionalRequestConflict", "OperationAborted", "409"})
MISSING = frozenset({"NoSuchKey", "NotFound", "404"})


class Version(NamedTuple):
    """Of an object: its tag, changed by every write; seconds since that write by the store's clock; bytes;
    the SHA-256 that `upload` noted, or nothing."""

    tag: str
    age: float
    size: int
    sha256: str = ""


class Listed(NamedTuple):
    """`size` is None for what other keys share before the delimiter."""

    key: str
    size: int | None


class S3Client:
    """One bucket. Raises `UserError` for what the user must set right (no such bucket, no credentials, access
    denied, another region), `CannotGoOn` when S3 fails for too long, and FileNotFoundError."""

    def __init__(self, bucket: str, client: Any = None) -> None:
        self.bucket, self._given = bucket, client

    @cached_property
    def _client(self) -> Any:
        if self._given is not None:
            return self._given
        # Its own few tries spare a warning where one is enough.
        tries = {"mode": "standard", "total_max_attempts": 3}
        config = Config(retries=tries, connect_timeout=CONNECT_S, read_timeout=READ_S)
        try:
            return boto3.session.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as error:  # a bad endpoint, an unknown profile
            raise UserError("storage", self._url(""), "an S3 that boto3 can reach", _said(error)) from None

    def check(self, prefix: str) -> None:
        """Raise unless what lies below the prefix can be listed and written to. Leaves nothing there."""
        asked = {"Bucket": self.bucket, "Prefix": prefix, "MaxKeys": 1}
        self._call(prefix, lambda: self._client.list_objects_v2(**asked), patience=0)
        probe = f"{prefix}/.weft-probe-{uuid.uuid4().hex}".lstrip("/")
        self._call(probe, lambda: self._client.put_object(**self._object(probe), Body=b""), patience=0)
        self.delete(probe)

    def get(self, key: str) -> bytes:
        def get() -> bytes:
            body: bytes = self._client.get_object(**self._object(key))["Body"].read()
            return body

        return self._call(key, get)

    def put(self, key: str, body: bytes) -> None:
        """Large ones go in parts."""
        self._call(key, lambda: self._client.upload_fileobj(BytesIO(body), self.bucket, key, Config=PARTS))

    def upload(self, file: Path, key: str, digest: str) -> None:
        """A file of any size, with its SHA-256 noted."""
        noted = {"Metadata": {DIGEST: digest}}
        self._call(
            key, lambda: self._client.upload_file(str(file), self.bucket, key, ExtraArgs=noted, Config=PARTS)
        )

    def download(self, key: str, file: Path) -> None:
        """An object of any size."""
        self._call(key, lambda: self._client.download_file(self.bucket, key, str(file), Config=PARTS))

    def put_if(self, key: str, body: bytes, tag: str | None) -> str | None:
        """Write unless it has changed since it had this tag (None: unless it is there). The new tag, or None
        when it was not written."""
        # A try whose answer was lost may have been the one that wrote it: the mark tells.
        mark = uuid.uuid4().hex
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}

        def put() -> str | None:
            for _ in range(CONFLICTS):
                try:
                    answer = self._client.put_object(
                        **self._object(key), Body=body, Metadata={MARK: mark}, **condition
                    )
                except ClientError as error:
                    if _code(error) in CONFLICT:  # another one writes it at this moment
                        time.sleep(FIRST_PAUSE_S / 10)
                        continue
                    if _code(error) not in TAKEN | MISSING:
                        raise
                    return self._tag_if_marked(key, mark)
                return str(answer["ETag"])
            return None

        return self._call(key, put)

    def _tag_if_marked(self, key: str, mark: str) -> str | None:
        try:
            found = self._client.head_object(**self._object(key))
        except ClientError as error:
            if _code(error) in MISSING:
                return None
            raise
        return str(found["ETag"]) if found["Metadata"].get(MARK) == mark else None

    def version(self, key: str) -> Version:
        found = self._call(key, lambda: self._client.head_object(**self._object(key)))
        now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
        age = (now - found["LastModified"]).total_seconds()
        digest = found["Metadata"].get(DIGEST, "")
        return Version(str(found["ETag"]), age, int(found["ContentLength"]), digest)

    def delete(self, key: str) -> None:
        """Also when it is not there."""
        self._call(key, lambda: self._client.delete_object(**self._object(key)))

    def listed(self, prefix: str, delimiter: str = "") -> Iterator[Listed]:
        """What begins with the prefix, in the order of keys."""
        asked: dict[str, Any] = {"Bucket": self.bucket, "Prefix": prefix, "MaxKeys": PAGE}
        if delimiter:
            asked["Delimiter"] = delimiter
        while True:
            page = self._call(prefix, partial(self._client.list_objects_v2, **asked))
            yield from (Listed(one["Key"], one["Size"]) for one in page.get("Contents", ()))
            yield from (Listed(one["Prefix"], None) for one in page.get("CommonPrefixes", ()))
            if not page.get("IsTruncated"):
                return
            asked = {**asked, "ContinuationToken": page["NextContinuationToken"]}

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": key}

    def _url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}".rstrip("/")

    def _call(self, key: str, act: Callable[[], T], patience: float | None = None) -> T:
        """Try until it succeeds, fails for good, or `patience` seconds (`PATIENCE_S`) are over."""
        pause = FIRST_PAUSE_S
        until = time.monotonic() + (PATIENCE_S if patience is None else patience)
        while True:
            try:
                return act()
            except (ClientError, BotoCoreError) as error:
                url = self._url(key)
                if _code(error) in MISSING:
                    raise FileNotFoundError(url) from None
                fix = _to_set_right(error)
                if fix:
                    raise UserError("storage", url, "a bucket that can be read and written", fix) from None
                if not _passes(error):
                    raise CannotGoOn(f"{url}: {_said(error)}") from error
                if time.monotonic() + pause > until:
                    raise CannotGoOn(f"{url} does not answer: {_said(error)}") from error
                log.warning("%s fails; next try in %g s: %s", url, pause, _said(error))
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)


def _code(error: Exception) -> str:
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""


def _passes(error: Exception) -> bool:
    if not isinstance(error, ClientError):
        return True  # connections, time-outs, bodies cut short
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or _code(error) in PASSING


FIXES = {
    "NoSuchBucket": "There is no such bucket: create it first.",
    **dict.fromkeys(
        ("AccessDenied", "AllAccessDisabled", "Forbidden", "403"),
        "Access is denied: a policy must allow s3:ListBucket, GetObject, PutObject and DeleteObject.",
    ),
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
        "S3 refuses the credentials: renew AWS_ACCESS_KEY_ID and its fellows.",
    ),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"),
        "The bucket is in another region: set AWS_DEFAULT_REGION.",
    ),
}


def _to_set_right(error: Exception) -> str:
    """What the user should do; empty for what is not theirs."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return "There are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
    return FIXES.get(_code(error), "")


def _said(error: Exception) -> str:
    return " ".join(str(error).split())
