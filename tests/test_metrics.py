import warnings

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.signal import lfilter, resample_poly

from bayessep import metrics
from bayessep.errors import UserError
from bayessep.metrics import bss_eval, evaluate_stems, si_sdr

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mir_eval announces that its version 0.9 will have no separation metrics
    from mir_eval.separation import bss_eval_images_framewise, bss_eval_sources


def _noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# ----------------------------------------------------------------------------------------------------- SI-SDR

seeds = st.integers(0, 2**31 - 1)
decibels = st.floats(-20, 40)


@given(seeds, decibels)
@settings(max_examples=20)
def test_si_sdr_of_orthogonal_noise_is_its_level(seed: int, level: float):
    reference, noise = _noise(seed, 2, 500)
    noise -= noise @ reference / (reference @ reference) * reference
    noise *= np.linalg.norm(reference) / np.linalg.norm(noise) * 10 ** (-level / 20)
    score = si_sdr(jnp.asarray(reference, jnp.float32), jnp.asarray(reference + noise, jnp.float32))
    assert float(score) == pytest.approx(level, abs=2e-3)


@given(seeds, st.floats(1e-3, 1e3), st.floats(-1e3, -1e-3))
@settings(max_examples=20)
def test_si_sdr_knows_no_scale(seed: int, a: float, b: float):
    reference, estimate = jnp.asarray(_noise(seed, 2, 300), jnp.float32)
    expected = si_sdr(reference, estimate)
    np.testing.assert_allclose(si_sdr(a * reference, b * estimate), expected, atol=2e-3)


def test_si_sdr_zero_mean_ignores_offsets():
    reference, estimate = jnp.asarray(_noise(0, 2, 300), jnp.float32)
    expected = si_sdr(reference - reference.mean(), estimate - estimate.mean())
    np.testing.assert_allclose(si_sdr(reference + 1, estimate - 2, zero_mean=True), expected, atol=1e-3)
    assert abs(si_sdr(reference + 1, estimate - 2) - expected) > 0.1


def test_si_sdr_under_jit_vmap_and_batches():
    reference, estimate = jnp.asarray(_noise(1, 2, 3, 4, 200), jnp.float32)
    one_by_one = [[si_sdr(reference[i, j], estimate[i, j]) for j in range(4)] for i in range(3)]
    np.testing.assert_allclose(si_sdr(reference, estimate), np.array(one_by_one), rtol=1e-4)
    np.testing.assert_allclose(jax.jit(jax.vmap(si_sdr))(reference, estimate), np.array(one_by_one), rtol=1e-4)


def test_si_sdr_gradient_is_finite_and_correct(x64: None):
    reference, estimate = jnp.asarray(_noise(2, 2, 50))
    gradient = jax.grad(si_sdr, argnums=1)(reference, estimate)
    step = 1e-6 * _noise(3, 50)
    difference = (si_sdr(reference, estimate + step) - si_sdr(reference, estimate - step)) / 2
    assert np.all(np.isfinite(gradient))
    assert float(gradient @ step) == pytest.approx(float(difference), rel=1e-5)
    # The score does not change along the estimate itself.
    assert float(gradient @ estimate) == pytest.approx(0.0, abs=1e-9)


def test_si_sdr_of_silence_is_not_a_number_unless_eps_keeps_it_finite():
    signal, silence = jnp.asarray(_noise(4, 100), jnp.float32), jnp.zeros(100)
    assert np.isnan(si_sdr(silence, signal))
    assert np.isnan(si_sdr(signal, silence))
    for reference, estimate in ((silence, signal), (signal, silence), (silence, silence)):
        value, gradient = jax.value_and_grad(si_sdr, argnums=1)(reference, estimate, eps=1e-8)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


def test_si_sdr_of_a_scaled_copy_is_beyond_hearing():
    signal = jnp.asarray(_noise(5, 1000), jnp.float32)
    assert si_sdr(signal, 0.3 * signal) > 100


def test_samples_of_16_bits_have_the_scores_of_their_numbers():
    """Their squares do not fit into 16 bits, nor sums of them into 32."""
    rng = np.random.default_rng(0)
    speech, music = (rng.normal(0, 9000, 8000).astype(np.int16) for _ in range(2))
    mixed = (speech // 2 + music // 2).astype(np.int16)
    whole = evaluate_stems({"speech": speech, "music": music}, {"speech": mixed}, filter_length=8)["speech"]
    exact = [x.astype(np.float64) for x in (speech, music, mixed)]
    expected = evaluate_stems({"speech": exact[0], "music": exact[1]}, {"speech": exact[2]}, filter_length=8)["speech"]
    assert whole == pytest.approx(expected, abs=1e-4) and abs(whole.si_sdr) < 1
    assert float(si_sdr(jnp.asarray(speech), jnp.asarray(mixed))) == pytest.approx(expected.si_sdr, abs=1e-4)


def test_si_sdr_does_not_broadcast():
    with pytest.raises((ValueError, TypeError)):
        si_sdr(jnp.ones((2, 10)), jnp.ones((1, 10)))  # the checked shapes of the tests may speak first


# --------------------------------------------------------------------------------------------------- BSS-Eval


def _reference_scores(references: np.ndarray, estimates: np.ndarray, permute: bool = False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bss_eval_sources(references, estimates, compute_permutation=permute)


def _mixed(sources: np.ndarray, level: float, seed: int = 9) -> np.ndarray:
    """Filtered sources with the others and noise at ``-level`` dB."""
    gain = 10 ** (-level / 20)
    noise = _noise(seed, *sources.shape)
    return lfilter([1.0, 0.5, -0.2], [1.0], sources) + gain * (np.roll(sources, 1, axis=0) + 0.3 * noise)


SOURCES = {
    "white": _noise(0, 2, 9000),
    "coloured": lfilter([1.0], [1.0, -0.97], _noise(1, 2, 9000)),
    "band-limited": resample_poly(_noise(2, 2, 3000), 3, 1, axis=1),
    "three": _noise(3, 3, 6000),
    "one": _noise(4, 1, 9000),
}


@pytest.mark.parametrize(
    "kind, level",
    [("white", 0.0), ("white", 70.0), ("coloured", 15.0), ("coloured", 40.0), ("band-limited", 15.0)],
)
def test_bss_eval_equals_mir_eval(kind: str, level: float):
    sources = SOURCES[kind]
    estimates = _mixed(sources, level)
    ours, theirs = bss_eval(sources, estimates), _reference_scores(sources, estimates)
    for mine, oracle in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, oracle, atol=1e-6)


def test_bss_eval_equals_mir_eval_over_many_blocks():
    sources = _noise(5, 2, 100_000)  # correlations are summed over blocks of 16384
    estimates = _mixed(sources, 10.0)
    for mine, oracle in zip(bss_eval(sources, estimates), _reference_scores(sources, estimates), strict=True):
        np.testing.assert_allclose(mine, oracle, atol=1e-6)


@pytest.mark.parametrize("n", [5500, 6000, 9000, 9999])
def test_windows_are_scored_as_mir_eval_scores_images(n: int):
    """Windows of 4000 samples every 2000: one, two and three of them; in the third, a source is silent."""
    sources = SOURCES["coloured"][:, :n].copy()
    sources[1, 4000:8000] = 0
    estimates = _mixed(sources, 12.0)
    found = metrics.bss_eval_windows(sources, estimates, 4000, 2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdr, _, sir, sar, _ = bss_eval_images_framewise(sources, estimates, 4000, 2000)
    assert found.sdr.shape == (2, {5500: 1, 6000: 2, 9000: 3, 9999: 3}[n])
    for mine, oracle in zip(found, (sdr, sir, sar), strict=True):
        np.testing.assert_allclose(mine, oracle, atol=1e-6)
    assert np.isnan(found.sdr).any(0).tolist() == [k == 2 for k in range(found.sdr.shape[1])]


def test_bss_eval_finds_the_order_as_mir_eval_does():
    sources = SOURCES["three"]
    estimates = _mixed(sources, 10.0)[[2, 0, 1]]
    ours, theirs = (
        bss_eval(sources, estimates, permute=True),
        _reference_scores(sources, estimates, permute=True),
    )
    assert ours.permutation.tolist() == [1, 2, 0]
    for mine, oracle in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, oracle, atol=1e-6)
    assert np.all(bss_eval(sources, estimates).sir < 0)  # taken in the order given


def test_bss_eval_of_one_source_has_no_interference():
    source = SOURCES["one"]
    estimate = source + 0.1 * _noise(6, 1, 9000)
    ours, theirs = bss_eval(source, estimate), _reference_scores(source, estimate)
    assert ours.sir[0] == np.inf
    np.testing.assert_allclose(ours.sdr, theirs[0], atol=1e-6)
    np.testing.assert_allclose(ours.sar, theirs[2], atol=1e-6)


def test_bss_eval_forgives_a_filter_no_longer_than_allowed():
    source, other = SOURCES["white"]
    echo = np.array([1.0, *np.zeros(9), 0.6])
    estimates = np.stack([lfilter(echo, [1.0], source), lfilter(echo, [1.0], other)])
    assert np.all(bss_eval(SOURCES["white"], estimates, filter_length=512).sdr > 20)
    assert np.all(bss_eval(SOURCES["white"], estimates, filter_length=5).sdr < 6)


def test_bss_eval_of_a_perfect_estimate_is_beyond_hearing():
    scores = bss_eval(SOURCES["white"], SOURCES["white"])
    assert np.all(np.array(scores[:3]) > 200)


def test_bss_eval_survives_references_that_are_copies():
    source = SOURCES["one"][0]
    scores = bss_eval(np.stack([source, source]), np.stack([source, source]) + 0.1 * _noise(7, 2, 9000))
    np.testing.assert_allclose(scores.sdr, 20, atol=0.5)


@pytest.mark.parametrize("level", [0.0, 20.0])
def test_both_ways_to_the_energies_agree(level: float, monkeypatch: pytest.MonkeyPatch):
    sources = SOURCES["coloured"]
    estimates = _mixed(sources, level)
    called = []
    original = metrics._energies_of_signals

    def spy(*args: np.ndarray) -> np.ndarray:
        called.append(1)
        return original(*args)

    monkeypatch.setattr(metrics, "_energies_of_signals", spy)
    fast = bss_eval(sources, estimates)
    assert not called  # ordinary scores need no filtered signals
    bss_eval(sources, sources)
    assert called  # extreme ones do
    monkeypatch.setattr(metrics._Correlations, "of", staticmethod(_hopeless(metrics._Correlations.of)))
    for quick, slow in zip(fast[:3], bss_eval(sources, estimates)[:3], strict=True):
        np.testing.assert_allclose(quick, slow, atol=1e-7)


def _hopeless(of):
    """The same correlations, with an energy so large that every quadratic form seems too small."""
    return lambda *args: of(*args)._replace(energy=np.full(2, 1e30))


@pytest.mark.parametrize("value, message", [(0.0, "is silent"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_signals_that_cannot_be_scored_are_refused(value: float, message: str):
    good, bad = SOURCES["white"], SOURCES["white"].copy()
    bad[1] = value
    with pytest.raises(UserError, match=f"reference 1 .*{message}"):
        bss_eval(bad, good)
    with pytest.raises(UserError, match=f"estimate 1 .*{message}"):
        bss_eval(good, bad)
    with pytest.raises(UserError, match=f"estimate music .*{message}"):
        evaluate_stems({"speech": good[0], "music": good[1]}, {"music": bad[1]})


# ------------------------------------------------------------------------------------------------------ stems


def test_stems_are_scored_by_name():
    sources = SOURCES["coloured"]
    estimates = _mixed(sources, 12.0)
    by_name = evaluate_stems(
        {"speech": sources[0], "music": sources[1]}, {"music": estimates[1], "speech": estimates[0]}
    )
    plain = bss_eval(sources, estimates)
    for n, name in enumerate(("speech", "music")):
        np.testing.assert_allclose(by_name[name][:3], [plain.sdr[n], plain.sir[n], plain.sar[n]], atol=1e-9)
        expected = si_sdr(jnp.asarray(sources[n], jnp.float32), jnp.asarray(estimates[n], jnp.float32))
        assert by_name[name].si_sdr == pytest.approx(float(expected), abs=1e-4)
    alone = evaluate_stems({"speech": sources[0], "music": sources[1]}, {"speech": estimates[0]})
    np.testing.assert_allclose(alone["speech"], by_name["speech"], atol=1e-9)


def test_stems_that_do_not_fit_are_refused():
    signal = SOURCES["one"][0]
    with pytest.raises(UserError, match="'vocals'"):
        evaluate_stems({"speech": signal}, {"vocals": signal})
    with pytest.raises(UserError, match="equally long"):
        evaluate_stems({"speech": signal}, {"speech": signal[:-1]})
