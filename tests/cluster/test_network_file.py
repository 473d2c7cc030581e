"""A network on disk gives the same logits, and an altered one is refused."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch

from cluster.network_file import check_same, load_network, save_network
from networks.errors import CannotGoOn, UserError
from networks.network import Network, build_network
from tests.cluster.choices import chain_space

GENES = (1, 0, 2, 1, 1, 0, 2, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = build_network(chain_space().decode(GENES), 3)
    network.train()(torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)))  # moves statistics
    save_network(tmp_path / "kept" / "best", network, {"genes": list(GENES), "said": {"accuracy": 0.5}})
    return tmp_path / "kept" / "best"


def test_what_is_loaded_is_what_was_saved(folder: Path) -> None:
    network = build_network(chain_space().decode(GENES), 3)
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network.train()(x)
    loaded, about = load_network(folder)
    assert about == {"genes": list(GENES), "said": {"accuracy": 0.5}}
    assert loaded.architecture == network.architecture
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(x), network.eval()(x))
    expected = network.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_saving_again_replaces(folder: Path) -> None:
    other = (0,) * 8
    save_network(folder, build_network(chain_space().decode(other), 4), {"genes": list(other)})
    network, about = load_network(folder)
    assert about == {"genes": list(other)}
    assert network.architecture == chain_space().decode(other)
    assert sorted(path.name for path in folder.iterdir()) == ["network.json", "network.safetensors"]


@pytest.mark.parametrize("name", ["network.json", "network.safetensors"])
def test_a_folder_without_a_network(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match="a folder with a saved network") as caught:
        load_network(folder)
    assert (caught.value.field, caught.value.value) == ("network", str(folder))


def test_truncated_weights(folder: Path) -> None:
    path = folder / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="A checksum differs"):
        load_network(folder)


@pytest.mark.parametrize("change", [{"about": {"genes": [2] * 8}}, {"weights": "0" * 64}])
def test_an_altered_note(folder: Path, change: dict[str, object]) -> None:
    path = folder / "network.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match="A checksum differs"):
        load_network(folder)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "3"])
def test_a_note_that_is_none(folder: Path, text: str) -> None:
    (folder / "network.json").write_text(text)
    with pytest.raises(UserError, match="a folder with a saved network"):
        load_network(folder)


# Read again after it was written ---------------------------------------------------------------------------


def altered(network: Network, by: float) -> Network:
    """One that computes a little otherwise."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.head.classifier.weight.mul_(1 + by)
    return other


def test_what_is_read_computes_as_what_was_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, about = load_network(folder)
    check_same(network, altered(network, 1e-6), "here")
    with pytest.raises(CannotGoOn, match="the network read from here computes otherwise, by "):
        check_same(network, altered(network, 1e-2), "here")
    monkeypatch.setattr("cluster.network_file.load_network", lambda folder: (altered(network, 1e-2), {}))
    with pytest.raises(CannotGoOn, match="computes otherwise"):
        save_network(folder, network, about)


@pytest.mark.parametrize("training", [True, False])
def test_saving_leaves_the_network_as_it_was(folder: Path, training: bool) -> None:
    network = build_network(chain_space().decode(GENES), 3).train(training)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_network(folder, network, {})
    assert all(module.training == training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_network_without_numbers_is_kept_as_it_is(folder: Path) -> None:
    """A candidate that diverged late may be looked at too."""
    network = altered(build_network(chain_space().decode(GENES), 3), math.nan)
    save_network(folder, network, {})
    assert torch.isnan(load_network(folder)[0].head.classifier.weight).all()
