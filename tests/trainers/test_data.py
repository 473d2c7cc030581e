"""Splits, batches, augmentation, a user's own set, and what is refused."""

import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from networks.architecture import Shape
from networks.errors import UserError
from trainers.data import Augment, DataSettings, open_data
from trainers.data.augment import CUT_COLUMN, CUT_ROW, FLIP, LEFT, TOP, cut_out, draw_augment, shift_and_flip
from trainers.data.drawing import EpochOrder, Normaliser
from trainers.data.split import choose_splits, stratified_order
from trainers.data.testing import check_data

DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def refusal(**settings: object) -> UserError:
    with pytest.raises(UserError) as caught:
        open_data(DataSettings.model_validate(settings))
    return caught.value


def write_npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)
    return path


def small_arrays(images: int = 40, classes: int = 4, side: int = 8) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    return {"x_train": x, "y_train": np.arange(images) % classes}


# --- the default set


def test_digits_keep_the_promises_of_data() -> None:
    data = open_data(DataSettings(augment=Augment(crop=1, flip=True, cutout=3)))
    assert data.image == Shape(1, 8, 8) and data.classes == tuple("0123456789")
    assert data.sizes == {"train": 1437, "validation": 180, "test": 180}
    check_data(data)


def test_training_split_has_mean_0_and_deviation_1() -> None:
    x = torch.cat([x for x, _ in open_data(DataSettings()).batches("train", 256)])
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std().item() == pytest.approx(1, abs=1e-3)


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order() -> None:
    order = EpochOrder(30)
    epochs = [torch.cat([order.batch(5, step, 10) for step in range(e * 3, e * 3 + 3)]) for e in (0, 1)]
    assert all(sorted(epoch.tolist()) == list(range(30)) for epoch in epochs)
    assert not torch.equal(*epochs)


def test_steps_drop_the_last_partial_batch() -> None:
    data = open_data(DataSettings())
    assert data.steps_per_epoch(64) == 22
    assert data.steps_per_epoch(1437) == 1
    with pytest.raises(UserError, match="batch_size: 1438 cannot be used; allowed: 1 to 1437"):
        data.steps_per_epoch(1438)


def test_opening_again_gives_the_same_and_another_seed_another_split() -> None:
    first, again, other = (open_data(DataSettings(split_seed=seed)) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert all(
        torch.equal(a, b) for a, b in zip(first.train_batch(3, 7, 8), again.train_batch(3, 7, 8), strict=True)
    )


def test_importing_trainers_data_imports_neither_sklearn_nor_pillow() -> None:
    code = "import sys, trainers.data; print([m for m in ('sklearn', 'PIL', 'scipy') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# --- the split


def test_every_stretch_of_the_stratified_order_has_the_classes_shares() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10)
    order = stratified_order(labels, 0, "x")
    assert sorted(order.tolist()) == list(range(160))
    for start in range(0, 160, 16):
        counts = torch.bincount(labels[order[start : start + 16]], minlength=3)
        assert (counts - torch.tensor([10, 5, 1])).abs().max() <= 1
    assert not torch.equal(order, stratified_order(labels, 1, "x"))


def test_splits_are_disjoint_complete_and_of_the_sizes_asked_for() -> None:
    labels = torch.arange(200) % 5
    settings = DataSettings(validation=30, test=0.2)
    chosen = choose_splits({"train": labels}, "abcde", settings)
    positions = {split: picked.positions.tolist() for split, picked in chosen.items()}
    assert {split: len(picked) for split, picked in positions.items()} == {
        "train": 130,
        "validation": 30,
        "test": 40,
    }
    assert sorted(chain.from_iterable(positions.values())) == list(range(200))
    assert torch.bincount(labels[chosen["validation"].positions]).tolist() == [6] * 5


def test_a_smaller_limit_keeps_a_part_of_what_a_larger_one_keeps() -> None:
    labels = torch.arange(100) % 4
    order = stratified_order(labels, 0, "limit", "train")
    chosen = choose_splits({"train": labels}, "abcd", DataSettings(limit=40, validation=4, test=0))
    kept = torch.cat([picked.positions for picked in chosen.values()])
    assert sorted(kept.tolist()) == sorted(order[:40].tolist())


def test_own_test_images_are_the_test_split_and_all_of_them(tmp_path: Path) -> None:
    arrays = small_arrays()
    arrays |= {"x_test": arrays["x_train"][:6], "y_test": arrays["y_train"][:6]}
    data = open_data(DataSettings(name="npz", path=write_npz(tmp_path / "a.npz", **arrays), validation=8))
    assert data.sizes == {"train": 32, "validation": 8, "test": 6}
    assert torch.cat([y for _, y in data.batches("test", 4)]).tolist() == [0, 1, 2, 3, 0, 1]


def test_no_test_split_is_possible_and_reading_it_is_refused() -> None:
    data = open_data(DataSettings(test=0))
    assert data.sizes == {"train": 1617, "validation": 180, "test": 0}
    with pytest.raises(UserError, match="without test images"):
        data.batches("test", 8)


# --- augmentation


def test_crop_is_a_window_of_the_padded_image_and_flip_its_mirror() -> None:
    augment = Augment(crop=2, flip=True)
    images = torch.randint(
        0, 256, (64, 3, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    draws = draw_augment(augment, Shape(3, 6, 7), 64, seed=1, step=2)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    got = shift_and_flip(images, augment, draws)
    for i in range(64):
        top, left = int(draws[TOP, i]), int(draws[LEFT, i])
        if draws[FLIP, i]:  # the padded image is mirrored as a whole, then cut
            expected = padded[i].flip(2)[:, top : top + 6, left : left + 7]
        else:
            expected = padded[i, :, top : top + 6, left : left + 7]
        assert torch.equal(got[i], expected)
    assert set(draws[TOP].tolist()) == set(draws[LEFT].tolist()) == {0, 1, 2, 3, 4}
    assert set(draws[FLIP].tolist()) == {0, 1}


def test_cutout_blanks_a_square_that_may_hang_over() -> None:
    draws = torch.zeros(5, 2, dtype=torch.int64)
    draws[CUT_ROW], draws[CUT_COLUMN] = torch.tensor([4, 0]), torch.tensor([3, 7])
    got = cut_out(torch.ones(2, 3, 8, 8), Augment(cutout=4), draws)
    expected = torch.ones(2, 3, 8, 8)
    expected[0, :, 2:6, 1:5] = 0
    expected[1, :, :2, 5:] = 0
    assert torch.equal(got, expected)


def test_augmentation_leaves_validation_alone() -> None:
    plain, varied = (open_data(DataSettings(augment=a)) for a in (Augment(), Augment(crop=2, cutout=4)))
    assert plain.digest == varied.digest
    assert torch.equal(next(plain.batches("validation", 9))[0], next(varied.batches("validation", 9))[0])
    assert not torch.equal(plain.train_batch(0, 0, 9)[0], varied.train_batch(0, 0, 9)[0])
    assert torch.equal(plain.train_batch(0, 0, 9)[1], varied.train_batch(0, 0, 9)[1])


def test_a_constant_channel_is_centred_and_stays_finite() -> None:
    images = torch.full((4, 2, 3, 3), 7, dtype=torch.uint8)
    images[:, 1, 0] = 200
    x = Normaliser.of(images)(images)
    assert x[:, 0].eq(0).all() and x.isfinite().all()
    assert x[:, 1].std(correction=0).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_batches_equal_cpu_batches() -> None:
    data = open_data(DataSettings(augment=Augment(crop=1, flip=True, cutout=3)))
    for cpu, gpu in zip(data.train_batch(0, 30, 64), data.to("cuda").train_batch(0, 30, 64), strict=True):
        assert torch.equal(cpu, gpu.cpu())


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "field", "words"),
    [
        ({"name": "cifr10"}, "data.name", "Did you mean 'cifar10'?"),
        ({"name": "npz"}, "data.path", "a path, for npz"),
        ({"path": "x"}, "data.path", "only for cifar10, cifar100, npz, jpeg_npz, image_folder"),
        ({"workers": 2}, "data.workers", "only for jpeg_npz, image_folder"),
        ({"augment": {"resized_crop": [0.1, 1]}}, "data.augment.resized_crop", "only for image_folder"),
        ({"augment": {"crop": 8}}, "data.augment.crop", "0 to 7 pixels"),
        ({"augment": {"cutout": 9}}, "data.augment.cutout", "0 to 7 pixels"),
        ({"validation": 0}, "data.validation", "at least one of the training images"),
        ({"validation": 0.0001}, "data.validation", "at least one of the training images"),
        ({"validation": 1797, "test": 0}, "data.validation", "'0' would have none"),
        ({"validation": 5, "test": 1792}, "data.test", "would have none"),
        ({"limit": 5}, "data.limit", "an image of every class"),
        ({"name": "npz", "path": "/nowhere/a.npz"}, "data.path", "There is no folder '/nowhere'"),
        ({"name": "no_such_module_1:f"}, "data.name", "PYTHONPATH"),
        ({"name": "math:sqr"}, "data.name", "Did you mean 'sqrt'?"),
        ({"name": "math:pi"}, "data.name", "something to call"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, object], field: str, words: str) -> None:
    error = refusal(**settings)
    assert error.field == field
    assert words in str(error)


@pytest.mark.parametrize(
    "settings",
    [
        {"validaton": 0.1},
        {"validation": 1.0},
        {"test": -1},
        {"limit": 0},
        {"validation": True},
        {"augment": {"resized_crop": [0.5, 0.2]}},
    ],
)
def test_settings_of_the_wrong_type_or_range(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataSettings.model_validate(settings)


def test_settings_go_to_json_and_back() -> None:
    settings = DataSettings.model_validate(
        {"name": "jpeg_npz", "path": ["a", "b"], "validation": 100, "test": 0.25, "augment": {"crop": 4}}
    )
    assert DataSettings.model_validate_json(settings.model_dump_json()) == settings
    assert hash(settings) and settings.validation == 100 and isinstance(settings.validation, int)


# --- arrays


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_train": None}, "x_train is missing"),
        ({"x_train": np.zeros((40, 8, 8, 3), np.float32)}, "x_train is float32 of shape (40, 8, 8, 3)"),
        ({"x_train": np.zeros((40, 8), np.uint8)}, "x_train is uint8 of shape (40, 8)"),
        ({"x_train": np.zeros((40, 3, 8, 8), np.uint8)}, "channels last"),
        ({"y_train": np.zeros(39, np.int64)}, "y_train is int64 of shape (39,)"),
        ({"y_train": np.zeros(40)}, "y_train is float64"),
        ({"y_train": np.arange(40) % 4 - 1}, "Image 0 of train has label -1"),
        ({"classes": np.array(["a", "b", "c"])}, "Image 3 of train has label 3"),
        ({"classes": np.array(list("abcde"))}, "'e' has none"),
        ({"x_test": np.zeros((2, 9, 9, 3), np.uint8), "y_test": np.zeros(2, int)}, "images of one shape"),
        ({"x_train": None, "y_train": None, "x_trian": np.zeros(3)}, "Did you mean 'x_train'?"),
        ({"y_train": np.array([{}] * 40, dtype=object)}, "without pickled objects"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, change: dict[str, object], words: str) -> None:
    arrays = {k: v for k, v in (small_arrays() | change).items() if v is not None}
    error = refusal(name="npz", path=write_npz(tmp_path / "a.npz", **arrays))
    assert error.field == "data.path" and "a.npz" in str(error.value)
    assert words in str(error)


def test_damaged_and_misspelt_files_are_named(tmp_path: Path) -> None:
    good = write_npz(tmp_path / "images.npz", **small_arrays())
    assert "Did you mean 'images.npz'?" in str(refusal(name="npz", path=tmp_path / "image.npz"))
    bad = tmp_path / "bad.npz"
    bad.write_bytes(good.read_bytes()[:-200])
    assert str(bad) in str(refusal(name="npz", path=bad))
    bad.write_bytes(b"no npz file")
    assert str(bad) in str(refusal(name="npz", path=bad))


def test_grey_images_without_a_channel_axis(tmp_path: Path) -> None:
    arrays = {"x": small_arrays()["x_train"][..., 0], "y": small_arrays()["y_train"]}
    data = open_data(DataSettings(name="npz", path=write_npz(tmp_path / "a.npz", **arrays)))
    assert data.image == Shape(1, 8, 8)
    check_data(data)


# --- the user's own


def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_the_worked_example_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    example = next(block for block in blocks if "def stripes" in block)
    own_module(tmp_path, monkeypatch, "my_data", example)
    data = open_data(DataSettings(name="my_data:stripes", augment=Augment(crop=2)))
    assert data.classes == ("across", "down") and data.image == Shape(3, 16, 16)
    assert sum(data.sizes.values()) == 400
    check_data(data)


def test_an_object_with_the_protocol_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
from trainers.data import DataSettings, open_data

def mine(settings):
    return open_data(DataSettings(limit=200))
"""
    text += """
def unchecked(settings):
    data = mine(settings)
    data.sizes["validation"] = 0
    return data
"""
    own_module(tmp_path, monkeypatch, "own_object", text)
    assert "at least one validation image" in str(refusal(name="own_object:unchecked"))
    assert sum(open_data(DataSettings(name="own_object:mine")).sizes.values()) == 200


def test_what_a_users_function_returns_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def none(settings): return None\ndef part(settings): return {'x_train': [[1]], 'y_train': [0]}\n"
    own_module(tmp_path, monkeypatch, "own_wrong", text)
    error = refusal(name="own_wrong:none")
    assert error.field == "data.name" and "It returned NoneType. It lacks image, classes" in str(error)
    assert "x_train is int64 of shape (1, 1)" in str(refusal(name="own_wrong:part"))
    own_module(tmp_path, monkeypatch, "own_broken", "import nothing_of_this_name")
    assert "nothing_of_this_name" in str(refusal(name="own_broken:f"))
