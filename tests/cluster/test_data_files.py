"""`weft data`: data sets go to a bucket and come back as they were."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.s3 import S3Path
from tests.cluster.commands import Ended, weft
from tests.cluster.s3_server import BUCKET, Proxy, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Proxy]:
    with serving() as proxy:
        yield proxy


@pytest.fixture
def place(server: Proxy) -> S3Path:
    return S3Path.of(f"s3://{BUCKET}/{uuid.uuid4().hex}/sets")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a folder of three files, one of them large enough to go in parts."""
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    (data / "labels.csv").write_text("a,b\n")
    (data / "train" / "é 1.bin").write_bytes(bytes(range(256)) * (40 * 2**20 // 256))
    (data / "train" / "empty").write_bytes(b"")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def data(*arguments: object, cwd: Path) -> Ended:
    return weft("data", *map(str, arguments), cwd=cwd)


def test_a_folder_goes_and_comes_back(folder: Path, place: S3Path, server: Proxy) -> None:
    sent = data("push", "data", place, cwd=folder)
    assert sent.code == 0 and sent.out.startswith("3 files sent (41,943,044 bytes), 0 were there")
    server.seen.clear()
    assert data("push", "data", place, cwd=folder).out.startswith("0 files sent (0 bytes), 3 were there")
    assert not any(one.startswith(("PUT", "POST")) for one in server.seen)
    place._client.put(f"{place.key}/train/", b"")  # as others mark a folder
    listed = data("ls", place, cwd=folder).out.splitlines()
    assert [line.split(maxsplit=1) for line in listed] == [
        ["4", "labels.csv"], ["0", "train/empty"], ["41,943,040", "train/é 1.bin"],
    ]  # fmt: skip
    fetched = data("pull", place, "copy", cwd=folder)
    assert fetched.code == 0 and fetched.out.startswith("3 files fetched (41,943,044 bytes), 0 were there")
    assert contents(folder / "copy") == contents(folder / "data")
    (folder / "copy" / "labels.csv").write_text("a,c\n")
    assert data("pull", place, "copy", cwd=folder).out.startswith("1 files fetched (4 bytes), 2 were there")
    assert contents(folder / "copy") == contents(folder / "data")


def test_a_single_file(folder: Path, place: S3Path) -> None:
    assert data("push", "data/labels.csv", place, cwd=folder).code == 0
    assert data("pull", place / "labels.csv", "copy", cwd=folder).code == 0
    assert contents(folder / "copy") == {"labels.csv": b"a,b\n"}


def test_what_arrives_altered_is_refused(folder: Path, place: S3Path) -> None:
    data("push", "data/labels.csv", place, cwd=folder)
    other = folder / "other"
    other.write_text("a,x\n")
    digest = (place / "labels.csv").version().sha256
    (place / "labels.csv").upload(other, digest)
    ended = data("pull", place, "copy", cwd=folder)
    assert ended.code == 1 and "arrived altered" in ended.err
    assert contents(folder / "copy") == {}


def test_failures_that_pass_are_borne(
    folder: Path, place: S3Path, server: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.s3_client.FIRST_PAUSE_S", 0.01)
    with server.failing(503, 4):
        assert data("push", "data", place, cwd=folder).code == 0
    with server.failing(503, 4):
        assert data("pull", place, "copy", cwd=folder).code == 0
    assert contents(folder / "copy") == contents(folder / "data")


def test_mistakes_are_named(folder: Path, place: S3Path) -> None:
    for arguments, said in (
        (("push", "nothing", place), "SOURCE"),
        (("push", "data", "elsewhere"), "TARGET"),
        (("pull", place, "copy"), "weft data ls"),
        (("ls", "s3://weft-nobody/x"), "no such bucket"),
    ):
        ended = data(*arguments, cwd=folder)
        assert ended.code == 2 and said in ended.err, ended.err


def test_names_that_lead_out_of_the_folder_are_refused(folder: Path, place: S3Path) -> None:
    place._client.put(f"{place.key}/../../outside", b"x")
    ended = data("pull", place, "copy", cwd=folder)
    assert ended.code == 2 and "stay within" in ended.err
    assert not (folder / "outside").exists()
