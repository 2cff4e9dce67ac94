"""Draws from the posterior of a separation: their law is tested with `models.sources`, here what reaches the user."""

import dataclasses

import jax
import numpy as np
import pytest

from bayessep import draws, separators
from bayessep.broadcast import generate_broadcast
from bayessep.pipeline import Separation, analyse, separate, take_apart
from bayessep.preparation import Known, window_of
from bayessep.settings import Settings
from bayessep.stft import stft

pytestmark = pytest.mark.loose_arrays
RATE = 16000
SMALL = Settings(bases=4, sweeps=10, training_sweeps=10, max_frequency=1000.0, candidates=4, spread=None)


@pytest.fixture(scope="module")
def broadcast():
    return generate_broadcast(5, seconds=6.0, jingle_seconds=2.0, training_seconds=4.0)


def _separate(broadcast, **how) -> Separation:
    known = Known([broadcast.training_speech], [broadcast.labelled_music])
    return separate(broadcast.mixture[None], RATE, known, dataclasses.replace(SMALL, **how))


@pytest.fixture(scope="module")
def by_points(broadcast) -> Separation:
    return _separate(broadcast, method="icm")


@pytest.mark.parametrize("method", ["icm", "svi"])
def test_masks_drawn_have_the_mean_and_spread_of_the_mask(broadcast, by_points: Separation, method: str) -> None:
    """With points for blocks, exactly (ICM); with blocks drawn too, they spread more."""
    found = by_points if method == "icm" else _separate(broadcast, method=method)
    drawn = np.stack(list(draws.draw_masks(found, jax.random.key(0), 40)))
    assert drawn.min() >= 0 and drawn.max() <= 1 + 1e-5
    error = found.mask_std / np.sqrt(len(drawn))
    if method == "icm":
        assert (np.abs(drawn.mean(0) - found.mask) < 5.5 * error + 0.05).all()
        assert np.sqrt(((drawn.mean(0) - found.mask) ** 2).mean()) < 1.2 * np.sqrt((error**2).mean())
        assert drawn.std(0).mean() == pytest.approx(found.mask_std.mean(), rel=0.05)
    else:
        assert np.corrcoef(drawn.mean(0).ravel(), found.mask.ravel())[0, 1] > 0.9
        assert drawn.std(0).mean() == pytest.approx(found.mask_std.mean(), rel=0.2)


def test_what_labels_settle_never_varies() -> None:
    b = generate_broadcast(0, seconds=24.0, layout="programme")
    found = separate(b.mixture[None], RATE, Known(labels=b.labels), dataclasses.replace(SMALL, method="joint"))
    assert 0 < found.target.sum() < len(found.target)
    one, two = draws.draw_masks(found, jax.random.key(0), 2)
    np.testing.assert_array_equal(one[~found.target], found.mask[~found.target])
    assert np.abs(one - two)[found.target].mean() > 0.05


def test_general_templates_are_drawn_around_their_mask(broadcast) -> None:
    """Of speech and of music in general, without a catalogue: shares of one were drawn everywhere."""
    model = dataclasses.replace(SMALL, method="icm", faint=None)
    two = (broadcast.training_speech, broadcast.labelled_music)
    learned = [separators.train_templates(np.abs(stft(x, window_of(model, RATE)))[:, :40] * 1e3, model) for x in two]
    spectrum, plan = analyse(broadcast.mixture[None], RATE, Known([two[0]], [two[1]]), model)
    spectra = plan.spectra._replace(target=plan.spectra.target[:, :40], p_music=np.full(len(plan.spectra.target), 0.6, np.float32))
    plan = plan._replace(spectra=spectra._replace(speech=spectra.speech[:, :40], music=np.zeros((0, 40), np.float32)), n_bins=40)
    found = take_apart(broadcast.mixture[None], RATE, spectrum, plan, separators.beside(*learned), model)
    drawn = np.stack(list(draws.draw_masks(found, jax.random.key(0), 60)))
    assert 0.3 < found.mask.mean() < 0.95
    error = found.mask_std / np.sqrt(len(drawn))
    assert np.sqrt(((drawn.mean(0) - found.mask) ** 2).mean()) < 1.5 * np.sqrt((error**2).mean())
    assert drawn.std(0).mean() == pytest.approx(found.mask_std.mean(), rel=0.1)


def test_what_passes_as_speech_does_so_in_every_draw(by_points: Separation) -> None:
    found = by_points
    settings = dataclasses.replace(found.settings, faint=15.0)
    passing = np.arange(len(found.mask)) % 3 == 0
    mask = np.where(passing[:, None], np.float32(1), found.mask)
    (drawn,) = draws.draw_masks(found._replace(mask=mask, settings=settings), jax.random.key(0), 1)
    (before,) = draws.draw_masks(found, jax.random.key(0), 1)
    assert (drawn[passing] == 1).all() and (before[passing] < 0.9).any()
    np.testing.assert_array_equal(drawn[~passing], before[~passing])


def test_speech_drawn_is_as_long_as_the_mixture(broadcast) -> None:
    found, stereo = _separate(broadcast), np.stack([broadcast.mixture, 0.5 * broadcast.mixture])
    one, two = draws.draw_speech(found, stereo, RATE, jax.random.key(0), 2)
    assert one.shape == stereo.shape
    np.testing.assert_allclose(one[1], 0.5 * one[0], atol=1e-5)
    assert np.abs(one - two).max() > 1e-3
    again, _ = draws.draw_speech(found, stereo, RATE, jax.random.key(0), 2)
    np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(("method", "chain"), [("joint", True), ("icm", False)])
def test_arviz_has_every_block_by_name(broadcast, method: str, chain: bool) -> None:
    found = _separate(broadcast, method=method, chain=chain)
    made = draws.to_arviz(found, jax.random.key(0), draws=5)
    n_frames, n_bins = found.mask.shape
    shapes = {name: values.shape[2:] for name, values in made.posterior.data_vars.items()}
    expected = {"templates": (4, n_bins), "excitations": (n_frames, 4), "filter": (n_bins,), "gain": (n_frames,)}
    assert {name: shapes[name] for name in expected} == expected
    assert ("catalogue" in shapes) == chain, "the latent part of the jingle is learned with the chain"
    assert made.posterior["excitations"].dims[2:] == ("frame", "base")
    np.testing.assert_allclose(made.posterior["frequency"], found.frequencies)
    np.testing.assert_allclose(made.posterior["frame"], found.times)
    assert made.observed_data["magnitude"].shape == found.mask.shape
    spread = float(made.posterior["templates"].std("draw").max())
    assert (spread < 1e-6) == (method == "icm")
