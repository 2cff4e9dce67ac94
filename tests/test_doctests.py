"""The examples in docstrings, run on the modules as they are imported by name.

A file path given to pytest would import a second copy of every class, so modules are looked up by name.
"""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

PACKAGES = ("bayessep", "bayessep.models", "bayessep.inference")


def module_names() -> list[str]:
    """The three packages and every module that lies beside their __init__.py."""
    names = set(PACKAGES)
    for package in PACKAGES:
        # Not the package's __path__: in a checkout that of `bayessep` holds the top level, tests and all.
        folder = Path(str(importlib.import_module(package).__file__)).parent
        names |= {module.name for module in pkgutil.iter_modules([str(folder)], prefix=f"{package}.")}
    return sorted(names)


class BehindDecorators(doctest.DocTestFinder):
    """Looks behind jax.jit and the shape checks: doctest takes what they return for something imported."""

    def _from_module(self, module, object):
        return super()._from_module(module, inspect.unwrap(object) if callable(object) else object)


def failures(module) -> list[str]:
    """Run every example of a module; one line for each docstring whose examples fail."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    results = [(docstring.name, runner.run(docstring)) for docstring in BehindDecorators().find(module)]
    return [f"{name}: {r.failed} of {r.attempted} fail" for name, r in results if r.failed]


@pytest.mark.parametrize("name", module_names())
def test_examples(name: str) -> None:
    assert not failures(importlib.import_module(name))


def test_wrong_examples_are_found_behind_decorators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong_example.py").write_text(
        'import jax\n@jax.jit\ndef same(x):\n    """\n    >>> int(same(2))\n    5\n    """\n    return x\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert failures(importlib.import_module("wrong_example")) == ["wrong_example.same: 1 of 1 fail"]
