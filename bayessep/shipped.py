"""Weights that ship with the package: safetensors, each with its settings inside and a model card beside it, checked by sha256."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from bayessep.errors import UserError

FOLDER = Path(__file__).parent / "weights"
SUMS = "SHA256SUMS"
Tree = TypeVar("Tree")
Made = TypeVar("Made")


class Weights(NamedTuple):
    """A file of weights."""

    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]  # what the network is, and what its numbers were learned from


class Model(NamedTuple):
    """What is known of one without reading its numbers."""

    name: str
    path: Path
    bytes: int
    sha256: str  # as it was published
    settings: dict[str, Any]
    card: str  # Markdown: what it does, how well, from which data, under which licences


def names() -> list[str]:
    """Of all models that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def published() -> list[str]:
    """Of all models that should be here: those that ship, and those of whose sums it is known."""
    return sorted({*names(), *(Path(file).stem for file in _sums(FOLDER))})


def info(name: str) -> Model:
    """What is known of a model.

    Raises:
        UserError: there is none of that name, or a part of it is missing.
    """
    path = FOLDER / f"{name}.safetensors"
    if name not in names():
        raise UserError(f"there is no model {name!r}; there are {', '.join(names()) or 'none'}.")
    try:
        with safe_open(path, "numpy") as file:
            settings = json.loads((file.metadata() or {}).get("settings", "{}"))
        card = path.with_suffix(".md").read_text(encoding="utf-8")
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path) from error
    return Model(name, path, path.stat().st_size, _published(path), settings, card)


def verify(name: str) -> None:
    """Read a model once more, and compare it with what was published.

    Raises:
        UserError: it is another, or cannot be read.
    """
    model = info(name)
    if _sha256(model.path.read_bytes()) != model.sha256:
        raise _damaged(model.path)


@cache
def read(name: str) -> Weights:
    """The numbers of a model, checked.

    Raises:
        UserError: as `info` and `verify`.
    """
    model = info(name)
    content = model.path.read_bytes()
    if _sha256(content) != model.sha256:
        raise _damaged(model.path)
    return Weights(load(content), model.settings)


def read_file(path: str | Path) -> Weights:
    """Weights that somebody has trained (`write_file`).

    Raises:
        UserError: the file cannot be read, or is none of ours.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot read {path}: {reason}; give a file that bayessep train has written.") from None
    try:
        with safe_open(path, "numpy") as file:
            settings = json.loads((file.metadata() or {})["settings"])
        if not isinstance(settings, dict):
            raise ValueError("its settings are no object")
        return Weights(load(content), settings)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} holds no weights of bayessep; give a file that bayessep train has written.") from error


def made_of_file(path: str | Path, make: Callable[[Weights], Made]) -> Made:
    """What `make` makes of the weights of a file; its complaints name the file.

    Raises:
        UserError: as `read_file`, and as `make` does.
    """
    weights = read_file(path)
    try:
        return make(weights)
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def halved(weights: Weights) -> Weights:
    """The same with numbers in half precision, as they ship; bytes and counts stay."""
    arrays = {n: x.astype(np.float16) if np.issubdtype(x.dtype, np.floating) else x for n, x in weights.arrays.items()}
    return Weights(arrays, weights.settings)


def write_file(path: str | Path, weights: Weights) -> str:
    """Write weights, whole or not at all; returns their sha256. The same weights make the same bytes."""
    path = Path(path)
    arrays = {name: np.ascontiguousarray(weights.arrays[name]) for name in sorted(weights.arrays)}
    content = save(arrays, {"settings": json.dumps(weights.settings, sort_keys=True)})
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place.") from None
    return _sha256(content)


def publish(name: str, weights: Weights, card: str, folder: Path = FOLDER) -> None:
    """Put a model where it ships from: numbers, card, sum."""
    folder.mkdir(exist_ok=True)
    digest = write_file(folder / f"{name}.safetensors", weights)
    (folder / f"{name}.md").write_text(card, encoding="utf-8")
    sums = _sums(folder) | {f"{name}.safetensors": digest}
    (folder / SUMS).write_text("".join(f"{sums[file]}  {file}\n" for file in sorted(sums)), encoding="utf-8")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    """As `sha256sum -c` reads them."""
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return {file: digest for digest, _, file in (line.partition("  ") for line in lines) if file}


def _published(path: Path) -> str:
    digest = _sums(path.parent).get(path.name)
    if digest is None:
        raise UserError(f"{path.parent / SUMS} says nothing of {path.name}; install bayessep again.")
    return digest


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged: it is not what was published; install bayessep again.")


# --- trees of arrays -----------------------------------------------------------------------------------------------------


def flat(tree: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a tree by their places in it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(place, simple=True, separator="."): np.asarray(x) for place, x in leaves}


def config_of(kind: type[Made], given: Mapping[str, Any]) -> Made:
    """A dataclass of what a file says.

    Raises:
        ValueError, TypeError, UserError: it says something else than this dataclass has, or a value is of another type.
    """
    config: Any = kind(**given)
    for f in fields(config):
        value = getattr(config, f.name)
        whole = type(value) is int and type(f.default) is float
        if f.default is not MISSING and not whole and type(value) is not type(f.default):
            raise ValueError(f"{f.name} is {value!r}")
    return config


def numbers(weights: Weights, like: Tree) -> Tree:
    """The arrays of a file in the form of `like`, in single precision, for what ships may be in half.

    Raises:
        ValueError: some are no finite numbers.
        UserError: as `filled`.
    """
    if any(x.dtype.kind != "f" or not np.isfinite(x).all() for x in weights.arrays.values()):
        raise ValueError("some of them are no finite numbers")
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), filled(like, weights.arrays))


def filled(like: Tree, arrays: Mapping[str, np.ndarray]) -> Tree:
    """A tree of the form of `like`, with these arrays in their places.

    Raises:
        UserError: one is missing, or has another shape.
    """
    places, form = jax.tree_util.tree_flatten_with_path(like)
    found = []
    for place, x in places:
        name = jax.tree_util.keystr(place, simple=True, separator=".")
        if name not in arrays or arrays[name].shape != x.shape:
            raise UserError(f"these weights are of another network: {name} should have the shape {tuple(x.shape)}.")
        found.append(arrays[name])
    return jax.tree_util.tree_unflatten(form, found)
