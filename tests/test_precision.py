"""Products of rounded factors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from bayessep.errors import UserError
from bayessep.models import blstm_mask, deep_karaoke
from bayessep.models.blstm_mask import BlstmMask
from bayessep.models.conv_tasnet import ConvTasNet, init, separated
from bayessep.models.deep_karaoke import DeepKaraoke
from bayessep.models.precision import product

KEYS = jax.random.split(jax.random.key(0), 3)
X, W, SLOPE = (jax.random.normal(key, shape) for key, shape in zip(KEYS, ((50, 8), (8, 12), (50, 12)), strict=True))


def _as_rounded(x: jax.Array) -> np.ndarray:
    return np.asarray(x.astype(jnp.bfloat16), np.float64)


def test_it_is_the_product_of_rounded_factors_and_so_are_its_gradients() -> None:
    found, back = jax.vjp(lambda x, w: product(x, w, "bfloat16"), X, W)
    of_x, of_w = back(SLOPE)
    x, w, slope = map(_as_rounded, (X, W, SLOPE))
    for ours, exact in ((found, x @ w), (of_x, slope @ w.T), (of_w, x.T @ slope)):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, exact, atol=1e-5)
    assert np.abs(np.asarray(found) - np.asarray(X @ W)).max() > 1e-4  # else nothing was rounded


def test_rows_of_several_axes_stay_as_they_are() -> None:
    """Rows reshaped into one axis would gather what several devices share."""
    x, slope = X.reshape(5, 10, 8), SLOPE.reshape(5, 10, 12)
    loss = lambda x, w: (product(x, w, "bfloat16") * slope).sum()  # noqa: E731
    assert "reshape" not in str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, W))
    of_x, of_w = jax.grad(loss, (0, 1))(x, W)
    found, back = jax.vjp(lambda x, w: product(x, w, "bfloat16"), X, W)
    np.testing.assert_allclose(product(x, W, "bfloat16").reshape(50, 12), found, atol=1e-6)
    np.testing.assert_allclose(of_x.reshape(50, 8), back(SLOPE)[0], atol=1e-6)
    np.testing.assert_allclose(of_w, back(SLOPE)[1], atol=1e-5)
    assert product(jnp.zeros((0, 2, 8)), W, "bfloat16").shape == (0, 2, 12)


def _products(jaxpr: Jaxpr) -> list[JaxprEqn]:
    found = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: isinstance(v, (Jaxpr, ClosedJaxpr))):
            if isinstance(value, (Jaxpr, ClosedJaxpr)):
                found += _products(value.jaxpr if isinstance(value, ClosedJaxpr) else value)
    return found


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_product_of_a_step_of_training_is_of_another_precision_and_none_is_done_twice(precision: str) -> None:
    config = ConvTasNet(8, 4, 6, 10, 3, 2, 2, precision=precision)
    parameters = init(config, jax.random.key(1)).parameters
    loss = lambda p: (separated(config, p, jnp.ones((1, 40))) ** 2).sum()  # noqa: E731
    found = _products(jax.make_jaxpr(jax.grad(loss))(parameters).jaxpr)
    kinds = {str(operand.aval.dtype) for equation in found for operand in equation.invars}
    assert kinds == {precision}
    # A product has one forwards and two backwards; of a loop's two repeats, one is counted: encoder, narrow, masks, two decoders,
    # and two of each of two blocks. What the encoder is given has no gradient, which only bfloat16 leaves for XLA to leave out.
    assert len(found) == 3 * 9 - (precision == "float32")


RECURRENT, KARAOKE = BlstmMask(2, 3, 8, 4), DeepKaraoke(5, 4, 6)
CASES = {
    "blstm-mask": (blstm_mask, RECURRENT, (2, 40), 2 * 2 * 2 + 1, 2),
    "deep-karaoke": (deep_karaoke, KARAOKE, (2, 4, 5), 2, 1),
}


@pytest.mark.parametrize("network", CASES)
def test_other_networks_take_all_products_in_the_precision_asked_for(network: str) -> None:
    module, config, shape, products, of_inputs = CASES[network]
    parameters, x = module.init(config, jax.random.key(1)).parameters, jax.random.normal(KEYS[0], shape)
    found = {}
    for precision in ("float32", "bfloat16"):
        own = dataclasses.replace(config, precision=precision)
        loss = lambda p, own=own: (module.predict(own, p, x) ** 2).sum()  # noqa: E731
        dots = _products(jax.make_jaxpr(jax.grad(loss))(parameters).jaxpr)
        assert {str(operand.aval.dtype) for equation in dots for operand in equation.invars} == {precision}
        # One forwards and two backwards; inputs have no gradient, which only bfloat16 leaves for XLA to leave out.
        assert len(dots) == 3 * products - (of_inputs if precision == "float32" else 0)
        found[precision] = np.asarray(module.predict(own, parameters, x))
    assert found["bfloat16"].dtype == np.float32
    difference = np.abs(found["bfloat16"] - found["float32"]).max()
    assert 1e-6 < difference < 0.05 * np.abs(found["float32"]).max()


@pytest.mark.parametrize("config", [RECURRENT, KARAOKE])
def test_an_unknown_precision_is_refused(config: BlstmMask | DeepKaraoke) -> None:
    with pytest.raises(UserError, match="precision 'int8' is not known"):
        dataclasses.replace(config, precision="int8")
