"""Weights that ship: what is published is read, what is damaged or incomplete is refused, and anybody can check the sums."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bayessep import shipped
from bayessep.errors import UserError
from bayessep.shipped import SUMS, Weights


def _weights(seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    arrays = {"b.kernel": rng.standard_normal((3, 4), np.float32), "a": np.arange(5, dtype=np.float32)}
    return Weights(arrays, {"recipe": {"bands": 4}, "about": "ß", "rate": 0.5})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two models that ship."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    shipped.read.cache_clear()
    for seed, name in enumerate(("one", "two")):
        shipped.publish(name, _weights(seed), f"# {name}\n", tmp_path / "weights")
    yield tmp_path / "weights"
    shipped.read.cache_clear()


def test_what_is_published_is_read(folder: Path) -> None:
    assert shipped.names() == ["one", "two"]
    found = shipped.info("two")
    assert (found.name, found.card, found.settings) == ("two", "# two\n", _weights().settings)
    assert found.bytes == found.path.stat().st_size and len(found.sha256) == 64
    shipped.verify("two")
    for name, array in _weights(1).arrays.items():
        np.testing.assert_array_equal(shipped.read("two").arrays[name], array)
    assert shipped.read("two").settings == found.settings


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the program sha256sum")
def test_anybody_can_check_the_sums(folder: Path) -> None:
    shipped.publish("one", _weights(7), "# one, again\n", folder)
    check = subprocess.run(["sha256sum", "-c", "--strict", SUMS], cwd=folder, capture_output=True, text=True)
    assert check.returncode == 0 and check.stdout.splitlines() == ["one.safetensors: OK", "two.safetensors: OK"]
    (folder / "two.safetensors").write_bytes(b"something else")
    assert subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True).returncode == 1


def test_same_weights_same_bytes(tmp_path: Path) -> None:
    one = _weights()
    # In another order, and not in one piece of memory.
    other = Weights(
        {name: np.asfortranarray(one.arrays[name]) for name in reversed(sorted(one.arrays))},
        dict(reversed(one.settings.items())),
    )
    sums = [shipped.write_file(tmp_path / f"{n}.safetensors", w) for n, w in enumerate((one, other, _weights(1)))]
    content = [(tmp_path / f"{n}.safetensors").read_bytes() for n in range(3)]
    assert content[0] == content[1] != content[2] and sums[0] == sums[1] != sums[2]
    np.testing.assert_array_equal(shipped.read_file(tmp_path / "1.safetensors").arrays["b.kernel"], one.arrays["b.kernel"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors", "2.safetensors"]


@pytest.mark.parametrize("at", [0, 20, -1])
def test_damaged_bytes_are_refused(folder: Path, at: int) -> None:
    path = folder / "one.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    for reading in (shipped.read, shipped.verify):
        with pytest.raises(UserError, match="one.safetensors is damaged"):
            reading("one")
    shipped.verify("two")


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_half_a_file_is_refused(folder: Path, tmp_path: Path, keep: int) -> None:
    path = folder / "one.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="one.safetensors is damaged"):
        shipped.read("one")
    with pytest.raises(UserError, match="no weights of bayessep"):
        shipped.read_file(path)


def test_another_model_under_its_name_is_refused(folder: Path) -> None:
    shutil.copy(folder / "two.safetensors", folder / "one.safetensors")
    with pytest.raises(UserError, match="damaged"):
        shipped.read("one")


def test_what_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="no model 'three'; choose from one, two"):
        shipped.info("three")
    with pytest.raises(UserError, match="no model"):
        shipped.read("../weights/one")
    card = (folder / "one.md").rename(folder / "kept")
    with pytest.raises(UserError, match="damaged"):
        shipped.read("one")
    card.rename(folder / "one.md") if card else None
    for sums in (None, "", "no sums at all\n", "0000  two.safetensors\n", b"\xff\xfe"):
        (folder / SUMS).unlink(missing_ok=True)
        if sums is not None:
            (folder / SUMS).write_bytes(sums.encode() if isinstance(sums, str) else sums)
        for reading in (shipped.read, shipped.verify, shipped.info):
            with pytest.raises(UserError, match="does not list one.safetensors"):
                reading("one")


def test_without_a_folder_there_are_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    assert shipped.names() == []
    with pytest.raises(UserError, match="choose from none"):
        shipped.info("detector")


def test_other_files_are_no_weights(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, tmp_path / "foreign.safetensors")
    save_file({"a": np.zeros(3)}, tmp_path / "broken.safetensors", {"settings": "{"})
    save_file({"a": np.zeros(3)}, tmp_path / "list.safetensors", {"settings": "[1]"})
    (tmp_path / "text.safetensors").write_text("weights")
    (tmp_path / "folder.safetensors").mkdir()
    kinds = {"holds no weights": ("foreign", "broken", "list", "text"), "cannot read": ("folder", "absent")}
    for words, name in ((words, name) for words, names in kinds.items() for name in names):
        with pytest.raises(UserError, match=f"(?=.*{words}).*{name}.safetensors"):
            shipped.read_file(tmp_path / f"{name}.safetensors")


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        shipped.write_file(tmp_path / "nowhere" / "a.safetensors", _weights())
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        shipped.write_file(tmp_path / "taken.safetensors", _weights())
    assert [path.name for path in tmp_path.iterdir()] == ["taken.safetensors"]


def test_trees_go_flat_and_back() -> None:
    tree = {"b": [jnp.ones((2, 3)), jnp.zeros(())], "a": (jnp.arange(4.0),)}
    arrays = shipped.flat(tree)
    assert {name: array.shape for name, array in arrays.items()} == {"a.0": (4,), "b.0": (2, 3), "b.1": ()}
    again = shipped.filled(tree, arrays | {"more": np.zeros(1)})
    assert again.keys() == tree.keys() and isinstance(again["a"], tuple)
    np.testing.assert_array_equal(again["b"][0], tree["b"][0])
    for wrong in ({"b.0": np.ones((3, 2))}, {"b.0": np.ones(6)}, {"b.1": np.ones(1)}):
        with pytest.raises(UserError, match="another network: b"):
            shipped.filled(tree, arrays | wrong)
    with pytest.raises(UserError, match="another network: a.0"):
        shipped.filled(tree, {name: array for name, array in arrays.items() if name != "a.0"})
