"""Checkpoints: whole or not counted, two kept, nothing unpickled."""

import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from cluster.checkpoints import CheckpointStore

VALUES = {"trainer": {"step": 7, "scaler": {}}, "curve": [{"epoch": 1, "loss": 0.1 + 0.2}], "seconds": 1.5}


def tensors(epoch: int) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(epoch)
    weight = torch.randn(3, 4, 2, 2, generator=draws).contiguous(memory_format=torch.channels_last)
    return {"network.weight": weight, "network.count": torch.tensor(epoch), "momentum.weight": -weight}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "candidate")


def filled(store: CheckpointStore, epochs: int = 3) -> CheckpointStore:
    for epoch in range(1, epochs + 1):
        store.save(epoch, tensors(epoch), {**VALUES, "seconds": epoch})
    return store


def assert_newest(store: CheckpointStore, epoch: int) -> None:
    found = store.newest()
    assert found is not None and found.epoch == epoch and found.values["seconds"] == epoch
    for name, tensor in tensors(epoch).items():
        assert found.tensors[name].equal(tensor) and found.tensors[name].dtype == tensor.dtype


def weights(store: CheckpointStore, epoch: int) -> Path:
    return store.folder / f"epoch-{epoch:06d}.safetensors"


def note(store: CheckpointStore, epoch: int) -> Path:
    return store.folder / f"epoch-{epoch:06d}.json"


def test_what_was_saved_comes_back_bit_for_bit(store: CheckpointStore) -> None:
    assert store.newest() is None and store.epochs() == []
    store.save(1, tensors(1), VALUES)
    found = store.newest()
    assert found is not None and found.epoch == 1 and found.values == VALUES
    assert found.tensors.keys() == tensors(1).keys()
    for name, tensor in tensors(1).items():
        assert found.tensors[name].equal(tensor)


def test_two_are_kept_and_nothing_else(store: CheckpointStore) -> None:
    filled(store, 5)
    assert store.epochs() == [4, 5]
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "epoch-000004.json",
        "epoch-000004.safetensors",
        "epoch-000005.json",
        "epoch-000005.safetensors",
    ]
    assert_newest(store, 5)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[-3] ^= 1
    path.write_bytes(bytes(body))


DAMAGE = {
    "weights truncated": lambda store: truncate(weights(store, 3)),
    "weights altered": lambda store: flip_a_byte(weights(store, 3)),
    "weights empty": lambda store: weights(store, 3).write_bytes(b""),
    "weights gone": lambda store: weights(store, 3).unlink(),
    "weights of another epoch": lambda store: shutil.copy(weights(store, 2), weights(store, 3)),
    "note truncated": lambda store: truncate(note(store, 3)),
    "note empty": lambda store: note(store, 3).write_bytes(b""),
    "note altered": lambda store: note(store, 3).write_text(note(store, 3).read_text().replace("0.3", "0.9")),
    "note of another shape": lambda store: note(store, 3).write_text("[1, 2]"),
    "note null": lambda store: note(store, 3).write_text("null"),
    "note without checksum": lambda store: note(store, 3).write_text(json.dumps({"epoch": 3})),
    "note not text": lambda store: note(store, 3).write_bytes(b"\xff\xfe\x00"),
    "all of another epoch": lambda store: [
        shutil.copy(weights(store, 2), weights(store, 3)),
        shutil.copy(note(store, 2), note(store, 3)),
    ],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_one_is_named_and_the_one_before_is_used(
    store: CheckpointStore, damage, caplog: pytest.LogCaptureFixture
) -> None:
    filled(store)
    before = weights(store, 3).read_bytes(), note(store, 3).read_bytes()
    damage(store)
    left = weights(store, 3).read_bytes() if weights(store, 3).exists() else None
    assert (left, note(store, 3).read_bytes()) != before
    with caplog.at_level(logging.WARNING):
        assert_newest(store, 2)
    assert str(weights(store, 3)) in caplog.text


def test_weights_without_their_note_do_not_count(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    filled(store)
    note(store, 3).unlink()
    assert_newest(store, 2)
    assert not caplog.records


def test_with_none_whole_there_is_none_and_a_new_start_is_kept(store: CheckpointStore) -> None:
    """The epochs of the new start are lower than those of the damaged files, which may not crowd it out."""
    filled(store)
    truncate(weights(store, 2))
    truncate(weights(store, 3))
    assert store.newest() is None
    store.save(1, tensors(1), {**VALUES, "seconds": 1})
    assert store.epochs() == [1]
    assert_newest(store, 1)
    store.save(2, tensors(2), {**VALUES, "seconds": 2})
    assert_newest(store, 2)


class Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("call", range(1, 6), ids=["file 1", "name 1", "folder 1", "file 2", "name 2"])
def test_a_process_killed_while_it_saves_leaves_the_one_before(
    store: CheckpointStore, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store)
    calls = 0

    def dying(real):
        def step(*arguments):
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return real(*arguments)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dying(os.fsync))
        patch.setattr(Path, "replace", dying(Path.replace))
        with pytest.raises(Killed):
            store.save(4, tensors(4), VALUES)
    assert_newest(store, 3)
    store.save(4, tensors(4), {**VALUES, "seconds": 4})
    assert_newest(store, 4)
    assert sorted(path.name for path in store.folder.glob("[!.]*")) == [
        f"epoch-00000{epoch}.{end}" for epoch in (3, 4) for end in ("json", "safetensors")
    ]


def test_killed_while_it_replaces_an_epoch_that_is_there(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New weights beside the old note: neither the old nor the new one, but the one before."""
    filled(store)
    real = Path.replace
    replaced: list[Path] = []

    def once(self: Path, target: Path) -> Path:
        if replaced:
            raise Killed
        replaced.append(target)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", once)
        with pytest.raises(Killed):
            store.save(3, tensors(9), VALUES)
    assert replaced == [weights(store, 3)]
    assert_newest(store, 2)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (Bomb.target,))

    target = ""


def test_no_pickle_is_ever_read(store: CheckpointStore) -> None:
    filled(store)
    Bomb.target = str(store.folder / "exploded")
    bomb = pickle.dumps(Bomb())
    for name in ("epoch-000004.safetensors", "epoch-000004.json", "_dict_checkpoint.pkl", "epoch-000005.pkl"):
        (store.folder / name).write_bytes(bomb)
    weights(store, 3).write_bytes(bomb)
    torch.save(Bomb(), weights(store, 2))
    assert store.newest() is None
    assert not Path(Bomb.target).exists()
    pickle.loads(bomb)  # it would have gone off
    assert Path(Bomb.target).exists()


def test_drafts_of_the_killed_are_cleared_away(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    old, young = (tmp_path / f".epoch-000001.{name}.node-1-1.draft" for name in ("json", "safetensors"))
    for draft in (old, young):
        draft.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.save(1, {"weight": torch.zeros(1)}, {})
    assert not old.exists() and young.exists()
    assert store.newest() is not None
