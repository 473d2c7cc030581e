"""Files on a disk and in a bucket: both keep the same promises; what a bucket does when S3 fails."""

import logging
import os
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from cluster import s3_client
from cluster.files import AnyPath, make_folder, path_of, remove_folder, write_atomically, write_once
from cluster.s3 import S3Path
from cluster.s3_client import S3Client
from networks.errors import CannotGoOn, UserError
from tests.cluster.s3_server import BUCKET, Proxy, serving
from tests.cluster.threads import at_once


@pytest.fixture(scope="module")
def server() -> Iterator[Proxy]:
    with serving() as proxy:
        yield proxy


@pytest.fixture
def bucket(server: Proxy, monkeypatch: pytest.MonkeyPatch) -> S3Path:
    monkeypatch.setattr(s3_client, "FIRST_PAUSE_S", 0.05)
    return S3Path.of(f"s3://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    if request.param == "disk":
        return tmp_path
    found: S3Path = request.getfixturevalue("bucket")
    return found


def names(folder: AnyPath) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Both ---------------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_replaced(folder: AnyPath) -> None:
    path = folder / "x"
    write_atomically(path, b"one")
    assert path.read_bytes() == b"one" and path.read_text() == "one" and path.is_file()
    write_atomically(path, b"")
    assert path.read_bytes() == b"" and path.is_file() and not path.is_dir()


def test_what_is_not_there(folder: AnyPath) -> None:
    path = folder / "nothing"
    for act in (path.read_bytes, path.unlink):
        with pytest.raises(FileNotFoundError, match="nothing"):
            act()
    path.unlink(missing_ok=True)
    assert not path.exists() and not path.is_file() and not path.is_dir()
    assert list((folder / "below").glob("*")) == []


def test_what_lies_in_a_folder(folder: AnyPath) -> None:
    make_folder(folder / "sub" / "deeper")
    for name in ("b-2", "b-1", "a", "sub/c", "sub/deeper/d", "é ü+%2F"):
        write_atomically(folder / name, name.encode())
    assert names(folder) == ["a", "b-1", "b-2", "sub", "é ü+%2F"]
    assert names(folder / "sub") == ["c", "deeper"]
    assert sorted(path.name for path in folder.glob("b-[0-9]")) == ["b-1", "b-2"]
    assert (folder / "sub").is_dir() and (folder / "sub").exists() and not (folder / "sub").is_file()
    assert (folder / "sub" / "deeper" / "d").read_text() == "sub/deeper/d"
    (folder / "a").unlink()
    assert names(folder) == ["b-1", "b-2", "sub", "é ü+%2F"]


def test_a_folder_goes_with_everything_in_it(folder: AnyPath) -> None:
    for name in ("x/a", "x/y/b", "xy/c"):
        make_folder((folder / name).parent)
        write_atomically(folder / name, b"")
    if isinstance(folder, S3Path):
        folder._client.put(f"{folder.key}/x/", b"")  # how others mark a folder
    remove_folder(folder / "x")
    remove_folder(folder / "x")
    assert names(folder) == ["xy"] and names(folder / "xy") == ["c"]


def test_what_is_written_once_is_not_replaced(folder: AnyPath) -> None:
    path = folder / "x"
    refused = at_once(6, lambda number: write_once(path, bytes([number]) * 200_000))
    assert len(refused) == 5 and all(isinstance(error, FileExistsError) for error in refused.values())
    (winner,) = set(range(6)) - set(refused)
    assert path.read_bytes() == bytes([winner]) * 200_000
    assert names(folder) == ["x"]
    path.unlink()
    write_once(path, b"again")


def test_writers_at_the_same_moment_do_not_mix(folder: AnyPath) -> None:
    """A process that was thought dead may still be writing."""
    path = folder / "report.json"

    def write(number: int) -> None:
        for _ in range(10):
            write_atomically(path, bytes([number]) * 200_000)

    assert at_once(6, write) == {}
    body = path.read_bytes()
    assert len(body) == 200_000 and len(set(body)) == 1
    assert names(folder) == ["report.json"]


def test_paths_are_compared_named_and_sent_alike(folder: AnyPath) -> None:
    path = folder / "sub" / "epoch-01.json"
    assert (path.name, path.stem, path.parent.name) == ("epoch-01.json", "epoch-01", "sub")
    assert path.with_suffix(".safetensors") == folder / "sub" / "epoch-01.safetensors"
    assert path_of(str(path)) == path == pickle.loads(pickle.dumps(path)) and path != folder
    assert len({path, path_of(str(path))}) == 1
    assert str(path) == f"{folder}/sub/epoch-01.json"


# A disk -------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    steps: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(handle: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real_sync(handle)

    def replace(self: Path, target: Path) -> Path:
        steps.append("replace")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(path, b"new")
    assert len(steps) == 3 and steps[1:] == ["replace", tmp_path.name]
    assert steps[0].startswith(".report.json.") and steps[0].endswith(".draft")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_folder_is_there_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
    )
    make_folder(tmp_path / "a" / "b")
    assert sorted(synced) == [tmp_path, tmp_path / "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


# A bucket -----------------------------------------------------------------------------------------


def test_more_than_a_page_is_listed(bucket: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "PAGE", 3)
    written = [f"{number:02d}" for number in range(10)]
    for name in written:
        (bucket / name).write_bytes(b"")
        (bucket / f"below-{name}" / "x").write_bytes(b"")
    assert names(bucket) == written + [f"below-{name}" for name in written]


def test_what_is_large_goes_in_parts(bucket: S3Path, server: Proxy) -> None:
    body = bytes(range(256)) * (40 * 2**20 // 256)
    server.seen.clear()
    (bucket / "large").write_bytes(body)
    assert (bucket / "large").read_bytes() == body
    assert sum("partNumber=" in one for one in server.seen) == 3


@pytest.mark.parametrize(
    ("answer", "requests"), [(500, 1), pytest.param(503, 5, marks=pytest.mark.slow), ("lost", 1), ("lost", 5)]
)
def test_failures_that_pass_are_borne(
    answer: int | str, requests: int, bucket: S3Path, server: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    path = bucket / "x"
    path.write_bytes(b"one")
    for act in (path.read_bytes, lambda: path.write_bytes(b"one"), lambda: names(bucket), path.version):
        with server.failing(answer, requests):
            act()
    assert path.read_bytes() == b"one"
    said = [record for record in caplog.records if "next try" in record.message]
    assert bool(said) == (requests > 3), "boto3 tries three times itself"


@pytest.mark.parametrize("requests", [1, 2, 4])
def test_what_was_written_once_by_a_try_whose_answer_was_lost_is_ours(
    requests: int, bucket: S3Path, server: Proxy
) -> None:
    with server.failing("lost", requests):
        write_once(bucket / "x", b"one")
    with pytest.raises(FileExistsError), server.failing("lost", requests):
        write_once(bucket / "x", b"one")


def test_a_slow_answer_is_waited_for(bucket: S3Path, server: Proxy) -> None:
    with server.failing("slow"):
        (bucket / "x").write_bytes(b"one")
    assert (bucket / "x").read_bytes() == b"one"


def test_silence_ends_in_an_error(bucket: S3Path, server: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "PATIENCE_S", 0.2)
    with server.failing(503), pytest.raises(CannotGoOn, match=r"does not answer: .*SlowDown"):
        names(bucket)


def test_a_version_changes_with_each_write(bucket: S3Path) -> None:
    with pytest.raises(FileNotFoundError):
        (bucket / "x").version()
    first = (bucket / "x").put_if(b"one", None)
    assert first is not None and (bucket / "x").version().tag == first
    assert (bucket / "x").put_if(b"two", None) is None
    second = (bucket / "x").put_if(b"two", first)
    assert second not in (None, first)
    assert (bucket / "x").put_if(b"three", first) is None
    assert (bucket / "x").read_bytes() == b"two"
    assert -1 <= (bucket / "x").version().age < 20
    (bucket / "x").unlink()
    assert (bucket / "x").put_if(b"three", second) is None


def test_checking_leaves_nothing(bucket: S3Path) -> None:
    bucket.check()
    assert list(bucket.iterdir()) == []


def test_mistakes_are_named(bucket: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"storage: .*s3://weft-nobody.*no such bucket"):
        S3Path.of("s3://weft-nobody/x").check()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(UserError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        S3Path.of(str(bucket)).check()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere")
    with pytest.raises(UserError, match="boto3 can reach"):
        S3Path.of(str(bucket)).check()


REFUSALS = [
    (403, "AccessDenied", "policy must allow"),
    (403, "SignatureDoesNotMatch", "refuses the credentials"),
    (301, "PermanentRedirect", "AWS_DEFAULT_REGION"),
]


@pytest.mark.parametrize(("status", "code", "fix"), REFUSALS, ids=[code for _, code, _ in REFUSALS])
def test_refusals_say_what_to_set_right(status: int, code: str, fix: str) -> None:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}

    class Refusing:
        def list_objects_v2(self, **asked: object) -> None:
            raise ClientError(answer, "ListObjectsV2")  # type: ignore[arg-type]

    with pytest.raises(UserError, match=fix):
        list(S3Client("some-bucket", Refusing()).listed("x"))


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///x",
        "s3://abc?x=1",
        "gs://abc/b",
        "s3://abc/../b",
        "s3://abc/./b",
        "s3://ab",
        "s3://No_Bucket",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UserError, match="storage"):
        S3Path.of(url)


def test_no_secret_is_told(bucket: S3Path, caplog: pytest.LogCaptureFixture, server: Proxy,
                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(s3_client, "PATIENCE_S", 0.5)
    caplog.set_level(logging.DEBUG, "cluster")
    with server.failing(503), pytest.raises(CannotGoOn) as caught:
        (bucket / "x").read_bytes()
    assert "canary" not in str(caught.value) + caplog.text
    assert "canary" not in repr(pickle.dumps(bucket))
