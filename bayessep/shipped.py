"""Weights that ship with the package: safetensors files with settings inside and a model card beside them, verified by SHA-256."""

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
    """Contents of a weights file."""

    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]  # config of the network, and details of its training


class Model(NamedTuple):
    """Metadata of a shipped model, available without reading its arrays."""

    name: str
    path: Path
    bytes: int
    sha256: str  # as it was published
    settings: dict[str, Any]
    card: str  # Markdown: purpose, quality, training data, licences


def names() -> list[str]:
    """Names of all models that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def published() -> list[str]:
    """Names of all models that should be installed: those that are, and those with a checksum."""
    return sorted({*names(), *(Path(file).stem for file in _sums(FOLDER))})


def info(name: str) -> Model:
    """Read the metadata of a model.

    Raises:
        UserError: there is not a model of that name, or a part of it is missing or damaged.
    """
    path = FOLDER / f"{name}.safetensors"
    if name not in names():
        raise UserError(f"there is no model {name!r}; choose from {', '.join(names()) or 'none'}.")
    try:
        with safe_open(path, "numpy") as file:
            settings = json.loads((file.metadata() or {}).get("settings", "{}"))
        card = path.with_suffix(".md").read_text(encoding="utf-8")
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path) from error
    return Model(name, path, path.stat().st_size, _published(path), settings, card)


def verify(name: str) -> None:
    """Compare the file of a model with its published checksum.

    Raises:
        UserError: they differ, or the model cannot be read.
    """
    model = info(name)
    if _sha256(model.path.read_bytes()) != model.sha256:
        raise _damaged(model.path)


@cache
def read(name: str) -> Weights:
    """Read the weights of a model, after verifying its checksum.

    Raises:
        UserError: as `info` and `verify`.
    """
    model = info(name)
    content = model.path.read_bytes()
    if _sha256(content) != model.sha256:
        raise _damaged(model.path)
    return Weights(load(content), model.settings)


def read_file(path: str | Path) -> Weights:
    """Read a weights file of the user (`write_file`).

    Raises:
        UserError: the file cannot be read, or is not a weights file of this package.
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
    """Apply `make` to the weights of a file, naming the file in its errors.

    Raises:
        UserError: as `read_file` and `make`.
    """
    weights = read_file(path)
    try:
        return make(weights)
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def halved(weights: Weights) -> Weights:
    """Convert floating-point arrays to half precision, as they ship; integers are unchanged."""
    arrays = {n: x.astype(np.float16) if np.issubdtype(x.dtype, np.floating) else x for n, x in weights.arrays.items()}
    return Weights(arrays, weights.settings)


def write_file(path: str | Path, weights: Weights) -> str:
    """Write weights atomically and return the SHA-256 of the file. The same weights give the same bytes."""
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
    """Add a model to the folder of shipped weights: file, card and checksum."""
    folder.mkdir(exist_ok=True)
    digest = write_file(folder / f"{name}.safetensors", weights)
    (folder / f"{name}.md").write_text(card, encoding="utf-8")
    sums = _sums(folder) | {f"{name}.safetensors": digest}
    (folder / SUMS).write_text("".join(f"{sums[file]}  {file}\n" for file in sorted(sums)), encoding="utf-8")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    """Checksums by file name, from a file in the format of `sha256sum`."""
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return {file: digest for digest, _, file in (line.partition("  ") for line in lines) if file}


def _published(path: Path) -> str:
    digest = _sums(path.parent).get(path.name)
    if digest is None:
        raise UserError(f"{path.parent / SUMS} does not list {path.name}; install bayessep again.")
    return digest


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged: it is not what was published; install bayessep again.")


# --- trees of arrays -----------------------------------------------------------------------------------------------------


def flat(tree: PyTree) -> dict[str, np.ndarray]:
    """Flatten a tree into arrays named by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(place, simple=True, separator="."): np.asarray(x) for place, x in leaves}


def config_of(kind: type[Made], given: Mapping[str, Any]) -> Made:
    """Build a config dataclass from the settings of a file.

    Raises:
        ValueError, TypeError, UserError: a field is unknown or missing, or a value is of the wrong type or out of range.
    """
    config: Any = kind(**given)
    for f in fields(config):
        value = getattr(config, f.name)
        whole = type(value) is int and type(f.default) is float
        if f.default is not MISSING and not whole and type(value) is not type(f.default):
            raise ValueError(f"{f.name} is {value!r}")
    return config


def numbers(weights: Weights, like: Tree) -> Tree:
    """Arrange the arrays of a file in the structure of `like`, in single precision, as shipped weights may be in half precision.

    Raises:
        ValueError: an array is not floating-point, or not finite.
        UserError: as `filled`.
    """
    if any(x.dtype.kind != "f" or not np.isfinite(x).all() for x in weights.arrays.values()):
        raise ValueError("some of them are no finite numbers")
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), filled(like, weights.arrays))


def filled(like: Tree, arrays: Mapping[str, np.ndarray]) -> Tree:
    """Fill a tree of the structure of `like` with arrays named by their paths.

    Raises:
        UserError: an array is missing, or has another shape.
    """
    places, form = jax.tree_util.tree_flatten_with_path(like)
    found = []
    for place, x in places:
        name = jax.tree_util.keystr(place, simple=True, separator=".")
        if name not in arrays or arrays[name].shape != x.shape:
            raise UserError(f"these weights are of another network: {name} should have the shape {tuple(x.shape)}.")
        found.append(arrays[name])
    return jax.tree_util.tree_unflatten(form, found)
