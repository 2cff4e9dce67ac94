"""The conditions that conftest.py promises do hold, so that a test that passes under them means something."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "name", ["bayessep", "bayessep.errors", "bayessep.gamma", "bayessep.models", "bayessep.inference"]
)
def test_annotations_are_checked(name: str) -> None:
    """The loader that adds the checks has loaded the module: from the checkout, under its one name."""
    assert type(importlib.import_module(name).__loader__).__name__ == "_JaxtypingLoader"


def test_a_wrong_shape_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the place where models lie: beside the package, found through its path."""
    import bayessep

    (tmp_path / "rehearsal.py").write_text(
        "from jaxtyping import Array, Float\n"
        "def total(x: Float[Array, 'T F'], y: Float[Array, ' F']) -> Float[Array, '']:\n"
        "    return (x @ y).sum()\n"
    )
    monkeypatch.setattr(bayessep, "__path__", [*bayessep.__path__, str(tmp_path)])
    total = importlib.import_module("bayessep.rehearsal").total
    assert total(jnp.ones((2, 3)), jnp.ones(3)) == 6
    with pytest.raises(Exception, match="Type-check error"):
        total(jnp.ones((2, 3)), jnp.ones((3, 1)))


def test_promotion_is_strict() -> None:
    with pytest.raises(ValueError, match="dtype_promotion"):
        jnp.ones(3) * jnp.ones(3, dtype=jnp.int32)
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) * jnp.ones(3)


@given(st.integers(1, 3))
def test_promotion_is_strict_in_properties(n: int) -> None:
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, n)) * jnp.ones(n)


@pytest.mark.loose_arrays
def test_promotion_can_be_loosened() -> None:
    assert (jnp.ones((2, 3)) * jnp.ones(3, dtype=jnp.int32)).shape == (2, 3)


def test_float32_is_the_default() -> None:
    assert jnp.asarray(np.ones(3)).dtype == jnp.float32


def test_float64_on_request(x64: None) -> None:
    assert jnp.asarray(np.ones(3)).dtype == jnp.float64
    assert jax.jit(lambda x: x * 2)(jnp.ones(3)).dtype == jnp.float64
