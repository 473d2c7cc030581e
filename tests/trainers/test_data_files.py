"""CIFAR archives, encoded images, folders of images, and the real sets where they are."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from networks.architecture import Shape
from networks.errors import UserError
from trainers.data import Data, DataSettings, cifar, open_data
from trainers.data.decoders import Decoders, Fit, Image
from trainers.data.decoding import center_box, random_box
from trainers.data.testing import check_data

REAL = Path(os.environ.get("WEFT_DATA") or "shared/data")
if not REAL.is_absolute() and not REAL.is_dir():
    REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def opened(**settings: object) -> Data:
    return open_data(DataSettings.model_validate(settings))


def refusal(**settings: object) -> UserError:
    with pytest.raises(UserError) as caught:
        opened(**settings)
    return caught.value


def real(name: str) -> Path:
    if not (REAL / name).is_file():
        pytest.skip(f"no {name}: set WEFT_DATA to the folder with the real sets, or put them into {REAL}")
    return REAL / name


def pixels(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth picture, so that JPEG keeps it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Pillow.fromarray(coarse).resize((width, height), Pillow.Resampling.BILINEAR))


def encoded(image: np.ndarray, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


# --- CIFAR


def cifar_files(name: str, images: int = 40) -> dict[str, bytes]:
    """The files of a tiny archive; the pixels of image i of file f all have the value (i + f) % 256."""
    archive = cifar.ARCHIVES[name]
    files = {archive.names: "\n".join(f"class{i}" for i in range(archive.classes)).encode() + b"\n"}
    for number, member in enumerate((*archive.train, archive.test)):
        files[member] = b"".join(
            bytes([7] * (archive.label_bytes - 1) + [i % archive.classes])
            + bytes([(i + number) % 256]) * 1024
            + bytes([0]) * 1024
            + bytes([255]) * 1024
            for i in range(images)
        )
    return files


def write_archive(path: Path, name: str, files: dict[str, bytes], **extra: bytes) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        named = {f"{cifar.ARCHIVES[name].folder}/{member}": content for member, content in files.items()}
        for member, content in (extra | named).items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("name", "train"), [("cifar10", 200), ("cifar100", 300)])
def test_cifar_from_folder_and_from_archive_agree(tmp_path: Path, name: str, train: int) -> None:
    files = cifar_files(name, 40 if name == "cifar10" else 300)
    folder = tmp_path / cifar.ARCHIVES[name].folder
    folder.mkdir()
    for member, content in files.items():
        (folder / member).write_bytes(content)
    packed = write_archive(tmp_path / "a.tar.gz", name, files)
    data = [opened(name=name, path=path, validation=20) for path in (folder, tmp_path, packed)]
    assert data[0].digest == data[1].digest == data[2].digest
    assert data[0].image == Shape(3, 32, 32) and data[0].classes[-1] == f"class{len(data[0].classes) - 1}"
    assert data[0].sizes["train"] == train - 20 and data[0].sizes["validation"] == 20
    x, y = next(data[0].batches("test", 12))
    assert y.tolist() == [i % len(data[0].classes) for i in range(12)]
    assert x[:, 1:].eq(0).all(), "green and blue never change"
    assert x[:, 0].diff(dim=0).gt(0).all(), "red grows by one from image to image"


def test_nothing_of_an_archive_is_unpacked(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    evil = {"../evil.bin": b"x", "/tmp/../evil.bin": b"x", "cifar-10-batches-bin/../../evil.bin": b"x"}
    packed = write_archive(inside / "a.tar.gz", "cifar10", cifar_files("cifar10"), **evil)
    assert opened(name="cifar10", path=packed).sizes["test"] == 40
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "inside"]


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny CIFAR-10 archive that can be downloaded, and an empty cache."""
    packed = write_archive(tmp_path / "cifar-10-binary.tar.gz", "cifar10", cifar_files("cifar10"))
    md5 = hashlib.md5(packed.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(
        cifar.ARCHIVES, "cifar10", cifar.ARCHIVES["cifar10"]._replace(url=packed.as_uri(), md5=md5)
    )
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    return packed


def test_cifar_is_downloaded_once(offered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached = offered.parent / "cache" / offered.name
    data = opened(name="cifar10")
    assert str(cached) in capsys.readouterr().err and cached.read_bytes() == offered.read_bytes()
    offered.unlink()
    assert opened(name="cifar10").digest == data.digest
    assert capsys.readouterr().err == ""


def test_a_download_that_fails_leaves_nothing_behind(offered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = cifar.ARCHIVES["cifar10"]
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", good._replace(md5="0" * 32))
    assert f"its MD5 sum is {good.md5}" in str(refusal(name="cifar10"))
    monkeypatch.setitem(
        cifar.ARCHIVES, "cifar10", good._replace(url=good.url + ".gone/cifar-10-binary.tar.gz")
    )
    assert "Fetch it by other means" in str(refusal(name="cifar10"))
    assert list((offered.parent / "cache").iterdir()) == []


def test_damaged_cifar_is_refused(tmp_path: Path) -> None:
    files = cifar_files("cifar10")
    packed = write_archive(tmp_path / "a.tar.gz", "cifar10", files)
    packed.write_bytes(packed.read_bytes()[:-50])
    assert refusal(name="cifar10", path=packed).field == "data.path"
    write_archive(packed, "cifar10", files | {"data_batch_3.bin": files["data_batch_3.bin"][:-1]})
    assert "data_batch_3.bin has 122919 bytes" in str(refusal(name="cifar10", path=packed))
    write_archive(packed, "cifar10", files | {"test_batch.bin": bytes([10]) + bytes(3072)})
    assert "Image 0 of test_batch.bin has label 10" in str(refusal(name="cifar10", path=packed))
    write_archive(packed, "cifar10", {k: v for k, v in files.items() if k != "test_batch.bin"})
    assert "There is no cifar-10-batches-bin/test_batch.bin" in str(refusal(name="cifar10", path=packed))
    assert "No data_batch_1.bin" in str(refusal(name="cifar10", path=tmp_path))


# --- encoded images in npz files


def write_blob(path: Path, contents: list[bytes], labels: list[int], **more: object) -> Path:
    arrays: dict[str, object] = {
        "blob": np.frombuffer(b"".join(contents), np.uint8),
        "offset": np.cumsum([0, *map(len, contents)]),
        "label": np.array(labels, np.uint8),
        "classes": np.array(["a", "b"]),
    }
    arrays |= more
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def blob_images(count: int, start: int = 0) -> tuple[list[bytes], list[int]]:
    return [encoded(pixels(start + i)) for i in range(count)], [i % 2 for i in range(count)]


def test_encoded_files_are_joined_and_decoded(tmp_path: Path) -> None:
    paths = [write_blob(tmp_path / f"{i}.npz", *blob_images(10, 10 * i)) for i in range(3)]
    data = opened(name="jpeg_npz", path=paths[:2], test_path=paths[2], validation=4)
    assert data.image == Shape(3, 24, 32) and data.classes == ("a", "b")
    assert data.sizes == {"train": 16, "validation": 4, "test": 10}
    check_data(data)
    x, _ = next(data.batches("test", 10))
    raw = [np.asarray(Pillow.open(io.BytesIO(content))) for content in blob_images(10, 20)[0]]
    expected = torch.from_numpy(np.stack(raw)).permute(0, 3, 1, 2).double()
    for channel in range(3):  # normalising is one line for all pixels of a channel
        pair = torch.stack([x[:, channel].flatten().double(), expected[:, channel].flatten()])
        assert torch.corrcoef(pair)[0, 1].item() == pytest.approx(1, abs=1e-9)


def test_worker_processes_decode_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_blob(tmp_path / "a.npz", *blob_images(40))
    digests = {opened(name="jpeg_npz", path=path, workers=0).digest}
    monkeypatch.setattr("trainers.data.jpeg_npz.FEW", 1)
    monkeypatch.setattr("trainers.data.decoders.CHUNK", 3)
    digests |= {opened(name="jpeg_npz", path=path, workers=workers).digest for workers in (1, 2)}
    assert len(digests) == 1


def test_marked_images_are_the_validation_split(tmp_path: Path) -> None:
    path = write_blob(tmp_path / "a.npz", *blob_images(20), is_val=np.arange(20) < 6)
    assert opened(name="jpeg_npz", path=path, test=2).sizes == {"train": 12, "validation": 6, "test": 2}
    assert "brings its own validation" in str(refusal(name="jpeg_npz", path=path, validation=0.1))


def test_images_of_several_sizes_need_image_size(tmp_path: Path) -> None:
    contents, labels = blob_images(20)
    contents[7] = encoded(pixels(7, 40, 20))
    path = write_blob(tmp_path / "a.npz", contents, labels)
    error = refusal(name="jpeg_npz", path=path)
    assert "image 7" in str(error.value) and "it has 20x40 pixels, the first one 32x24" in str(error)
    assert "set image_size" in str(error)
    assert opened(name="jpeg_npz", path=path, image_size=16).image == Shape(3, 16, 16)
    other = write_blob(tmp_path / "b.npz", [encoded(pixels(i, 8, 8)) for i in range(4)], [0, 1, 0, 1])
    whole = write_blob(tmp_path / "c.npz", *blob_images(20))
    error = refusal(name="jpeg_npz", path=whole, test_path=other)
    assert error.field == "data.image_size" and "(3, 8, 8)" in str(error)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": None}, "blob, offset, label and classes"),
        ({"classes": None}, "blob, offset, label and classes"),
        ({"offset": np.arange(20)}, "for 20 labels"),
        ({"offset": np.arange(21)[::-1]}, "offsets that grow"),
        ({"label": np.full(20, 2)}, "Image 0 of label has label 2"),
        ({"is_val": np.zeros(3, bool)}, "is_val as one mark an image"),
        ({"is_val": np.ones(20, bool)}, "files with training images"),
        ({"classes": np.array(["a", "b", "c"])}, "'c' has none"),
    ],
)
def test_encoded_arrays_that_do_not_fit(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = write_blob(tmp_path / "a.npz", *blob_images(20), **change)
    assert words in str(refusal(name="jpeg_npz", path=path))


def test_other_classes_and_unreadable_bytes_are_named(tmp_path: Path) -> None:
    one = write_blob(tmp_path / "a.npz", *blob_images(20))
    two = write_blob(tmp_path / "b.npz", *blob_images(20), classes=np.array(["b", "a"]))
    error = refusal(name="jpeg_npz", path=[one, two])
    assert error.value == str(two) and "same classes" in str(error)
    contents, labels = blob_images(20)
    contents[11] = contents[11][:100]
    error = refusal(name="jpeg_npz", path=write_blob(two, contents, labels))
    assert str(error.value).endswith("b.npz, image 11") and "an image that Pillow can read" in str(error)


# --- folders


def write_folder(root: Path, images: int = 12, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Sizes, formats and colour modes are mixed."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(images):
            picture = pixels(100 * label + i, 20 + 3 * i, 40 - i)
            kind, ending = (("JPEG", ".JPEG"), ("PNG", ".png"))[i % 2]
            picture = picture[..., 0] if i % 5 == 4 else picture
            (root / name / f"{i:02}{ending}").write_bytes(encoded(picture, kind))
    (root / classes[0] / "notes.txt").write_text("not an image")
    return root


def folder(root: Path, **more: object) -> Data:
    return opened(name="image_folder", path=root, image_size=16, **({"workers": 0} | more))


def test_one_tree_is_split_by_seed(tmp_path: Path) -> None:
    data = folder(write_folder(tmp_path), validation=4, test=2)
    assert data.image == Shape(3, 16, 16) and data.classes == ("cat", "dog")
    assert data.sizes == {"train": 18, "validation": 4, "test": 2}
    check_data(data)


def test_train_val_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val", 3)
    assert folder(tmp_path, test=4).sizes == {"train": 20, "validation": 6, "test": 4}
    write_folder(tmp_path / "test", 2)
    assert folder(tmp_path).sizes == {"train": 24, "validation": 6, "test": 4}
    (tmp_path / "val" / "cta").mkdir()
    error = folder_refusal(tmp_path)
    assert "Did you mean 'cat'?" in str(error) and str(error.value).endswith("cta")


def folder_refusal(root: Path, **more: object) -> UserError:
    with pytest.raises(UserError) as caught:
        folder(root, **more)
    return caught.value


def test_workers_and_order_of_asking_change_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path)
    augment = {"resized_crop": [0.3, 1.0], "flip": True, "cutout": 4}
    here, there = (folder(tmp_path, workers=workers, augment=augment) for workers in (0, 2))
    check_data(there)
    assert here.digest == there.digest
    for step in (0, 1, 2, 7, 3):
        for one, two in zip(here.train_batch(4, step, 5), there.train_batch(4, step, 5), strict=True):
            assert torch.equal(one, two)
    for split in ("train", "validation", "test"):
        assert all(
            torch.equal(a[0], b[0])
            for a, b in zip(here.batches(split, 3), there.batches(split, 3), strict=True)
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_read_ahead_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    write_folder(tmp_path)
    plain, ahead = folder(tmp_path, workers=0), folder(tmp_path, workers=workers)
    read: list[int] = []
    submit = ahead._submit_step

    def noted(seed: int, step: int, batch_size: int) -> object:
        read.append(step)
        return submit(seed, step, batch_size)

    monkeypatch.setattr(ahead, "_submit_step", noted)
    for coming in ([1, 4], [4, 2], [2, 9]):  # 9 is announced and then forgotten
        ahead.read_ahead(0, coming, 5)
        assert set(coming) <= set(read) or not workers
        step = coming[0]
        for one, two in zip(plain.train_batch(0, step, 5), ahead.train_batch(0, step, 5), strict=True):
            assert torch.equal(one, two)
    ahead.read_ahead(0, [3], 5)
    assert len(ahead._coming) == (1 if workers else 0)
    ahead.train_batch(0, 3, 5)
    ahead.train_batch(0, 5, 5)
    assert read == ([1, 4, 2, 9, 3, 5] if workers else [1, 4, 2, 3, 5])


def test_small_images_are_enlarged_and_centre_crop_cuts_the_border(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(6):
            picture = np.zeros((12, 12, 3), np.uint8)
            picture[2:10, 2:10] = 10 * i + 100
            (tmp_path / name / f"{i}.png").write_bytes(encoded(picture, "PNG"))
    whole, middle = (folder(tmp_path, center_crop=crop, validation=2, test=0) for crop in (1.0, 0.5))
    assert next(whole.batches("validation", 2))[0].unique().numel() > 4
    for x in next(middle.batches("validation", 2))[0]:
        assert x[0].unique().numel() == 1, "only the middle is left"


def test_boxes_lie_inside_and_cover_the_share_asked_for() -> None:
    assert center_box(500, 375, (224, 224), 1.0) == (62.5, 0.0, 437.5, 375.0)
    shares = []
    for seed in range(300):
        left, top, right, bottom = random_box(500, 375, (224, 224), (0.08, 1.0), seed)
        assert 0 <= left < right <= 500 and 0 <= top < bottom <= 375
        assert 0.7 < (right - left) / (bottom - top) < 1.4
        shares.append((right - left) * (bottom - top) / (500 * 375))
    assert min(shares) < 0.15 and max(shares) > 0.8 and 0.4 < np.mean(shares) < 0.6
    assert random_box(9, 900, (8, 8), (0.9, 1.0), 0) == center_box(9, 900, (8, 8), 1.0)


@pytest.mark.parametrize(
    "content", [b"text", b"", encoded(pixels(0))[:-300], encoded(pixels(0), "PNG")[:-200]]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_at_opening(tmp_path: Path, content: bytes, workers: int) -> None:
    write_folder(tmp_path)
    bad = tmp_path / "dog" / "03.png"
    bad.write_bytes(content)
    error = folder_refusal(tmp_path, workers=workers)
    assert error.field == "data.path" and error.value == str(bad)


def test_an_image_that_goes_bad_later_is_named_too(tmp_path: Path) -> None:
    data = folder(write_folder(tmp_path), workers=1)
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"data\.path: '.*\.png' cannot be used"):
        for step in range(3):
            data.train_batch(0, step, 4)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    write_folder(tmp_path / "set")
    error = folder_refusal(tmp_path / "sett")
    assert "Did you mean 'set'?" in str(error)
    (tmp_path / "set" / "empty").mkdir()
    assert str(folder_refusal(tmp_path / "set").value).endswith("empty")
    assert "one folder a class" in str(folder_refusal(tmp_path / "set" / "empty"))
    assert "It is a file" in str(folder_refusal(tmp_path / "set" / "cat" / "notes.txt"))
    write_folder(tmp_path / "held" / "val")
    assert "a folder with train" in str(folder_refusal(tmp_path / "held"))


def test_decoders_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    write_folder(tmp_path / "set")
    code = f"""
import json, time
from trainers.data import DataSettings, open_data
data = open_data(DataSettings(name="image_folder", path={str(tmp_path / "set")!r}, image_size=16, workers=2))
data.train_batch(0, 0, 8)
print(json.dumps([process.pid for process in data._decoders._processes]), flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids = json.loads(parent.stdout.readline())
    assert pids and all(alive(pid) for pid in pids)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "a decoder outlived its parent"
        time.sleep(0.05)


def test_a_decoder_that_dies_is_reported_and_replaced(tmp_path: Path) -> None:
    decoders = Decoders(1)
    image, fit = Image("a picture", encoded(pixels(0))), Fit("center", 8, 8)
    first = decoders.submit([image], fit).result()
    decoders._processes[0].send_signal(signal.SIGSTOP)  # so that it dies with a request before it
    coming = decoders.submit([image], fit)
    time.sleep(0.1)
    decoders._processes[0].kill()
    with pytest.raises(RuntimeError, match="ended with code -9, at a picture"):
        coming.result()
    assert torch.equal(decoders.submit([image], fit).result(), first)
    decoders.close()
    assert all(process.returncode is not None for process in decoders._processes)


def test_collected_decoders_wait_for_no_thread(tmp_path: Path) -> None:
    """It may be amid any code: one that was just starting a thread waited for it, and it for the thread."""
    decoders = Decoders(1)
    image, fit = Image(str(write_folder(tmp_path) / "cat/00.JPEG")), Fit("check")
    decoders.submit([image], fit).result()
    (process,) = decoders._processes
    process.send_signal(signal.SIGSTOP)
    decoders.submit([image], fit)
    kept = [decoders]
    del decoders
    collecting = threading.Thread(target=kept.clear, daemon=True)
    collecting.start()
    collecting.join(30)
    stuck = collecting.is_alive()
    process.send_signal(signal.SIGCONT)
    process.wait(30)
    assert not stuck


def alive(pid: int) -> bool:
    """Running: not gone, and not only waiting to be reaped."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


# --- real sets


def test_real_exact_cifar_images() -> None:
    path = real("cifar10_lossless_5593.npz")
    data = opened(name="npz", path=path, augment={"crop": 4, "flip": True, "cutout": 16})
    assert data.sizes == {"train": 5034, "validation": 559, "test": 164}
    assert data.classes[0] == "airplane" and data.image == Shape(3, 32, 32)
    check_data(data, 64)


def test_real_jpegs_resemble_the_exact_images() -> None:
    """The JPEG copies of the same classes have nearly the same brightness, so decoding mixes nothing up."""
    jpeg = opened(name="jpeg_npz", path=real("cifar10_jpeg_test.npz"), limit=400, workers=0)
    assert sum(jpeg.sizes.values()) == 400 and jpeg.image == Shape(3, 32, 32)
    labels = torch.cat([y for _, y in jpeg.batches("train", 64)])
    assert torch.bincount(labels, minlength=10).eq(32).all()
    check_data(jpeg, 64)


def test_real_sprites() -> None:
    data = opened(name="npz", path=real("fashion_mnist_sprite900.npz"))
    assert data.sizes == {"train": 720, "validation": 90, "test": 90} and data.image == Shape(1, 28, 28)


def test_real_tiny_imagenet_as_npz_and_as_folder_agree(tmp_path: Path) -> None:
    path = real("tinyimagenet20_jpeg.npz")
    with np.load(path, allow_pickle=False) as file:
        blob, offset, label, is_val, wnid = (
            file[name] for name in ("blob", "offset", "label", "is_val", "wnid")
        )
    chosen = [i for c in range(20) for v in (0, 1) for i in np.flatnonzero((label == c) & (is_val == v))[:8]]
    contents = [blob[offset[i] : offset[i + 1]].tobytes() for i in chosen]
    for i, content in zip(chosen, contents, strict=True):
        place = tmp_path / "set" / ("val" if is_val[i] else "train") / str(wnid[label[i]]) / f"{i:05}.JPEG"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    packed = write_blob(
        tmp_path / "a.npz", contents, label[chosen].tolist(), classes=wnid, is_val=is_val[chosen]
    )
    settings: dict[str, object] = {"image_size": 64, "test": 20}
    npz = opened(name="jpeg_npz", path=packed, **settings)
    tree = opened(name="image_folder", path=tmp_path / "set", center_crop=1.0, workers=1, **settings)
    assert npz.sizes == tree.sizes == {"train": 140, "validation": 160, "test": 20}
    assert npz.classes == tree.classes
    for one, two in zip(npz.batches("validation", 50), tree.batches("validation", 50), strict=True):
        assert torch.equal(one[1], two[1]) and torch.equal(one[0], two[0])
