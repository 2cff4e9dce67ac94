"""Separation from end to end on generated sound: what the stems owe the mixture, and that every method separates."""

import dataclasses
import gc
import inspect
import tracemalloc
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayessep import metrics, pipeline, preparation, separators, streaming
from bayessep.audio import read, write
from bayessep.broadcast import generate_broadcast
from bayessep.errors import UserError
from bayessep.models import entries, jingle_mixture
from bayessep.pipeline import separate
from bayessep.preparation import Known
from bayessep.settings import METHODS, Settings
from bayessep.stft import stft
from bayessep.timeline import Segment

pytestmark = pytest.mark.loose_arrays
RATE = 16000
# Above 2.5 kHz bins follow those below: half the time.
SMALL = Settings(bases=8, sweeps=20, training_sweeps=20, max_frequency=2500.0)


@pytest.fixture(scope="module")
def broadcast():
    return generate_broadcast(5, seconds=6.0, jingle_seconds=2.0, training_seconds=4.0)


@pytest.fixture(scope="module")
def known(broadcast) -> Known:
    return Known([broadcast.training_speech], [broadcast.labelled_music])


def _sdr(broadcast, result, stem: str = "speech") -> float:
    return float(metrics.si_sdr(getattr(broadcast, stem), getattr(result, stem)[0]))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_separates(broadcast, known, method: str) -> None:
    result = separate(broadcast.mixture[None], RATE, known, dataclasses.replace(SMALL, method=method))
    before = float(metrics.si_sdr(broadcast.speech, broadcast.mixture))
    assert _sdr(broadcast, result) > before + (1.0 if method == "unsupervised" else 3.0)
    np.testing.assert_allclose(result.speech + result.music, broadcast.mixture[None], atol=1e-6)
    assert result.mask.min() >= 0 and result.mask.max() <= 1 + 1e-5
    assert np.all((result.p_music >= 0) & (result.p_music <= 1 + 1e-5))
    assert np.all(np.isfinite(result.mask_std)) and result.mask_std.max() <= 0.51
    assert len(result.trace) >= result.steps and np.isfinite(result.bound)
    if method not in ("svi", "icm", "joint", "unsupervised"):  # the M-step of hyper-parameters is float32 there
        assert np.diff(result.trace).min() > -1e-4 * abs(result.bound)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_plays_the_catalogue_in_order(broadcast, known, method: str) -> None:
    """With the chain, the other half of the jingle is found and learned, where there is speech to tell it from."""
    result = separate(broadcast.mixture[None], RATE, known, dataclasses.replace(SMALL, method=method, chain=True))
    if method == "unsupervised":
        assert result.period is None
    else:
        assert result.period == pytest.approx(2.0, abs=0.04)
        assert bool(result.posterior.problem.latent.any())
    before = float(metrics.si_sdr(broadcast.speech, broadcast.mixture))
    assert _sdr(broadcast, result) > before + (1.0 if method == "unsupervised" else 3.0)
    np.testing.assert_allclose(result.speech + result.music, broadcast.mixture[None], atol=1e-6)


def test_icm_is_sparse_unless_it_takes_modes_of_logarithms(broadcast, known) -> None:
    def excitations(log_modes: bool) -> np.ndarray:
        settings = dataclasses.replace(SMALL, method="icm", log_modes=log_modes)
        return np.asarray(separate(broadcast.mixture[None], RATE, known, settings).posterior.moments.excitations.mean)

    modes, logarithms = (excitations(log_modes) for log_modes in (False, True))
    assert (modes < 1e-6 * modes.max()).mean() > 0.2 > (logarithms < 1e-6 * logarithms.max()).mean()


def test_a_label_that_is_true_moves_no_repeats() -> None:
    """The music is muted for half a second, and goes on where it would have been: labels say so, or nothing does."""
    made = generate_broadcast(5, seconds=8.0, jingle_seconds=2.0, training_seconds=4.0)
    music = made.music.copy()
    music[round(3.7 * RATE) : round(4.2 * RATE)] = 0
    window = preparation.window_of(SMALL, RATE)
    spectrum = np.asarray(stft((made.speech + music)[None].astype(np.float32), window))
    found, target = {}, np.ones(0)
    for labels in (None, [Segment(3.7, 4.2, "speech")]):
        known = Known([made.training_speech], [made.labelled_music], labels)
        plan = preparation.prepare(spectrum, window, RATE, known, max_frequency=2500.0, level=2.0, p_music=0.5)
        problem, repeats = separators.build_problem(plan.spectra, None, dataclasses.replace(SMALL, method="variational"))
        assert repeats is not None and repeats.period * window.hop / RATE == pytest.approx(2.0, abs=0.05)
        assert problem.frames.x.shape[0] == plan.given.target.sum()
        found[labels is None], target = repeats, plan.given.target
    assert np.abs(np.log(found[False].gain / found[True].gain[target]))[plan.times[target] > 4.5].max() < 0.3


def test_each_stretch_of_music_is_played_in_order() -> None:
    """Of several, the longest is looked for, and what is missing follows on that."""
    rng = np.random.default_rng(0)
    jingle, other = (rng.gamma(0.4, 2.0, (n, 30)).astype(np.float32) for n in (60, 5))
    target = np.tile(jingle, (5, 1)) + rng.gamma(0.2, 2.0, (300, 30)).astype(np.float32)
    music = np.concatenate([other, jingle[:40]])
    spectra = preparation.Spectra(target, target[:0], music, np.full(300, 0.5, np.float32), None, (5, 40))
    problem, found = separators.build_problem(spectra, None, dataclasses.replace(SMALL, method="variational"))
    assert found is not None and found.period == 60
    successor = np.asarray(problem.hyper.frame_prior.successor)
    expected = [0, *range(2, 6), 1, *range(7, 66), 6]
    assert successor.tolist() == expected


def test_what_is_too_long_to_complete_is_taken_as_given_and_said(broadcast, known) -> None:
    settings = dataclasses.replace(SMALL, chain=True, max_catalogue=50, sweeps=5, training_sweeps=5)
    result = separate(broadcast.mixture[None], RATE, known, settings)
    assert result.period == pytest.approx(2.0, abs=0.04)
    assert not result.posterior.problem.latent.any()
    assert "too long to complete" in result.notes[0]


def test_svi_is_exact_whatever_the_rule(broadcast, known) -> None:
    """The gradient knows no other rule; what is read off its result is read by the same."""
    few = dataclasses.replace(SMALL, method="svi", sweeps=5, training_sweeps=5, chain=False)
    one, other = (
        separate(broadcast.mixture[None], RATE, known, dataclasses.replace(few, rule=rule)) for rule in ("exact", "printed")
    )
    np.testing.assert_array_equal(one.speech, other.speech)
    assert other.posterior.problem.rule == "exact"


@pytest.mark.parametrize("method", ["joint", "unsupervised"])
def test_room_for_others_changes_nothing(broadcast, known, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Nothing of what is kept: stems, posterior and what was learned of its priors."""
    settings = dataclasses.replace(SMALL, method=method, chain=True, sweeps=15, training_sweeps=5, tolerance=0.0)
    spectra = pipeline.analyse(broadcast.mixture[None], RATE, known, settings)[1].spectra
    trained = separators.train(spectra.speech, settings)
    shared = separators.infer(spectra, trained, settings)
    monkeypatch.setattr(separators, "_with_room", lambda problem: problem)
    alone = separators.infer(spectra, trained, settings)

    kept = [(found.posterior._replace(readings=None), found.sources, found.filter, found.gain) for found in (shared, alone)]
    assert jax.tree.structure(kept[0]) == jax.tree.structure(kept[1])
    for one, other in zip(*map(jax.tree.leaves, kept), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        largest = np.abs(other[np.isfinite(other)]).max(initial=0)  # flat priors have an infinite scale
        np.testing.assert_allclose(one, other, rtol=0.01, atol=1e-3 * largest)
    np.testing.assert_allclose(shared.fit.trace, alone.fit.trace, rtol=1e-5)


def _repeating(level: float = 2.0, times: np.ndarray | None = None) -> preparation.Spectra:
    """A jingle of 60 frames, five times, of which 40 frames are known."""
    rng = np.random.default_rng(0)
    jingle = rng.gamma(0.4, 2.0, (60, 30))
    target = np.tile(jingle, (5, 1)) + rng.gamma(0.2, 2.0, (300, 30))
    scale = level / target.mean()
    known, target = ((scale * x).astype(np.float32) for x in (jingle[:40], target))
    return preparation.Spectra(target, target[:0], known, np.full(300, 0.5, np.float32), times, (40,))


def test_nothing_has_converged_while_entries_are_held() -> None:
    few = dataclasses.replace(SMALL, chain=True, bases=4, warm_up=30, sweeps=100, tolerance=1e-2)
    found = separators.infer(_repeating(), None, dataclasses.replace(few, complete=True))
    problem, moments = found.posterior.problem, found.posterior.moments
    latent = np.asarray(problem.latent) > 0
    assert latent.any() and found.fit.converged and found.fit.steps >= 35
    assert np.abs(np.asarray(moments.catalogue.mean)[latent] / np.asarray(problem.catalogue)[latent] - 1).max() > 0.01


@pytest.mark.parametrize("level", [2.0, 1e-6])
def test_what_repeats_is_estimated_at_every_level(level: float) -> None:
    settings = dataclasses.replace(SMALL, chain=True, complete=True)
    (problem, _), (usual, _) = (separators.build_problem(_repeating(at), None, settings) for at in (level, 2.0))
    assert np.asarray(problem.latent).any()
    np.testing.assert_allclose(problem.catalogue / level, usual.catalogue / 2, rtol=1e-3, atol=1e-5)


def test_shares_do_not_depend_on_the_level() -> None:
    x = np.array([[2.0, 1e-12, 0.0]], np.float32)
    np.testing.assert_array_equal(preparation.speech_share(x / 2, x), [[0.5, 0.5, 1.0]])
    np.testing.assert_array_equal(preparation.share_std(np.square(x / 4), x)[:, [0, 2]], [[0.25, 0.0]])


def test_blocks_know_where_labels_have_no_music(broadcast, known, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the chain, what is labelled as speech or as silence tells its neighbours that no music plays there."""
    seen: list[np.ndarray] = []
    build = separators.build_problem
    monkeypatch.setattr(separators, "build_problem", lambda of, *rest, **more: seen.append(of.p_music) or build(of, *rest, **more))
    parts = ("silence", "speech", "music", "speech+music")
    labels = [Segment(float(n), n + 1.0 + (n == 3), label) for n, label in enumerate(parts)]  # the last frame is beyond the end
    mix = tmp_path / "mix.wav"
    write(mix, broadcast.mixture[: 4 * RATE][None], RATE, "FLOAT")
    few = dataclasses.replace(SMALL, method="nmf", sweeps=2, training_sweeps=2)
    streaming.separate_file(mix, known._replace(labels=labels), few, tmp_path / "s.wav", tmp_path / "m.wav")
    assert set(seen[-1].tolist()) == {0.0, 1.0} and (np.diff(seen[-1]) != 0).sum() == 1 and seen[-1][0] == 0


def test_frames_on_both_sides_of_a_gap_are_no_neighbours() -> None:
    times = np.r_[0:100, 150:350]
    for method, before in (("variational", 0), ("joint", 7)):
        settings = dataclasses.replace(SMALL, chain=True, method=method)
        spectra = _repeating(times=times)._replace(speech=np.ones((before, 30), np.float32))
        problem, _ = separators.build_problem(spectra, None, settings)
        assert np.flatnonzero(problem.frames.starts).tolist() == ([0] if before else []) + [before, before + 100]


@pytest.mark.parametrize("n_entries", [2, 60, 65, 70, 76, 77, 100, 300])
def test_room_does_not_change_how_candidates_are_looked_for(n_entries: int) -> None:
    prior, catalogue = jingle_mixture.priors(513, 1.0, n_bases=2), jnp.ones((n_entries - 1, 513))
    problem = jingle_mixture.build(jnp.ones((5, 513)), prior=prior, catalogue=catalogue, candidates=8)
    roomy = separators._with_room(problem)
    assert len({entries.are_short_listed(len(p.catalogue), 513, 8) for p in (problem, roomy)}) == 1
    assert len(roomy.frames.x) == 6 and n_entries <= len(roomy.catalogue) < 2 * n_entries


@pytest.mark.loose_arrays  # optax
def test_svi_is_as_precise_as_its_data(x64: None, broadcast, known) -> None:
    """Whatever JAX's own precision is: float32 data and float64 scales did not fit into one loop."""
    few = dataclasses.replace(SMALL, method="svi", sweeps=3, training_sweeps=3, chain=False)
    assert np.isfinite(separate(broadcast.mixture[None], RATE, known, few).trace).all()


@pytest.mark.parametrize("method", ["joint", "svi"])
def test_hidden_bins_are_not_seen(broadcast, known, method: str) -> None:
    """What is inferred is the same whatever the hidden bins hold: the score changes only through what is scored."""
    settings = dataclasses.replace(SMALL, method=method, chain=True, sweeps=5, training_sweeps=5)
    spectra = pipeline.analyse(broadcast.mixture[None], RATE, known, settings)[1].spectra
    trained = separators.train(spectra.speech, settings)
    hidden = np.random.default_rng(0).random(spectra.target.shape) < 0.2
    other = spectra._replace(target=np.where(hidden, 0.0, spectra.target).astype(np.float32))
    states = []

    def keep(problem, moments, candidates):
        states.append((problem, moments, candidates))
        return scored(problem, moments, candidates)

    scored = separators._log_predictive
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separators, "_log_predictive", keep)
        one, two = (separators.score_hidden(s, trained, settings, hidden) for s in (spectra, other))
    assert np.isfinite(one) and np.isfinite(two) and two != one
    (_, moments, candidates), (_, moments_2, candidates_2) = states
    jax.tree.map(np.testing.assert_array_equal, (moments, candidates), (moments_2, candidates_2))


def test_held_out_bins_are_foretold_better_by_a_better_model(broadcast, known) -> None:
    """With the music known, or with enough templates, bins that were not seen are less of a surprise."""
    score = partial(pipeline.predictive_score, broadcast.mixture[None], RATE)
    plain = score(known, SMALL)
    assert plain == score(known, SMALL), "the same seed hides the same bins"
    assert plain > score(known, dataclasses.replace(SMALL, bases=1)) + 0.005
    elsewhere = Known(known.speech, [np.random.default_rng(0).standard_normal(RATE).astype(np.float32)])
    assert plain > score(elsewhere, SMALL) + 0.005
    with pytest.raises(UserError, match="between 0 and 1"):
        score(known, SMALL, held_out=1.0)


def test_same_seed_same_bytes(broadcast, known) -> None:
    one, two = (separate(broadcast.mixture[None], RATE, known, SMALL) for _ in range(2))
    assert one.speech.tobytes() == two.speech.tobytes()
    other = separate(broadcast.mixture[None], RATE, known, dataclasses.replace(SMALL, seed=1))
    assert one.speech.tobytes() != other.speech.tobytes()


def test_level_of_the_recording_does_not_matter(broadcast, known) -> None:
    """Everything is scaled to one level before the priors see it."""
    soft = Known([broadcast.training_speech * 0.01], [broadcast.labelled_music * 0.01])
    loud = separate(broadcast.mixture[None], RATE, known, SMALL)
    quiet = separate(broadcast.mixture[None] * 0.01, RATE, soft, SMALL)
    error = np.sum((quiet.speech * 100 - loud.speech) ** 2) / np.sum(loud.speech**2)
    assert error < 1e-3


def test_stereo_has_one_mask_for_both_channels(broadcast, known) -> None:
    stereo = np.stack([broadcast.mixture, 0.5 * broadcast.mixture])
    result = separate(stereo, RATE, known, SMALL)
    assert result.speech.shape == stereo.shape
    np.testing.assert_allclose(result.speech[1], 0.5 * result.speech[0], atol=1e-5)


@pytest.mark.parametrize("method", ["variational", "joint"])
def test_labels_settle_what_they_name(method: str) -> None:
    """Labelled speech and music pass untouched; the unlabelled rest is segmented."""
    b = generate_broadcast(0, seconds=16.0, layout="programme")
    settings = dataclasses.replace(SMALL, method=method)
    result = separate(b.mixture[None], RATE, Known(labels=b.labels), settings)
    speech_end = b.labels[0].end
    inside = slice(RATE // 4, int((speech_end - 0.25) * RATE))
    np.testing.assert_allclose(result.speech[0, inside], b.mixture[inside], atol=1e-5)
    music = next(s for s in b.labels if s.label == "music")
    inside = slice(int((music.start + 0.1) * RATE), int((music.end - 0.1) * RATE))
    assert np.abs(result.speech[0, inside]).max() < 1e-4
    assert result.segments[0].start == 0 and result.segments[-1].end == pytest.approx(16.0)
    for given, said in zip(b.labels[:2], result.segments, strict=False):
        assert said.label == given.label and abs(said.end - given.end) < 0.1
    assert any(s.end > b.labels[-1].end for s in result.segments)


def test_bins_above_the_model_follow_its_top_band() -> None:
    mask, magnitude = np.full((3, 16), 0.25, np.float32), np.ones((3, 20), np.float32)
    mask[1, -2:] = 1.0
    full = preparation.extend_mask(mask, magnitude, 20)
    assert full.shape == (3, 20)
    np.testing.assert_allclose(full[:, 16:], [[0.25] * 4, [1.0] * 4, [0.25] * 4])


def test_what_cannot_be_separated_is_refused(broadcast, known) -> None:
    silence = np.zeros((1, 2 * RATE), np.float32)
    with pytest.raises(UserError, match="examples of music"):
        separate(broadcast.mixture[None], RATE, known._replace(music=[]), SMALL)
    with pytest.raises(UserError, match="examples of speech"):
        separate(broadcast.mixture[None], RATE, known._replace(speech=[silence[0]]), SMALL)
    with pytest.raises(UserError, match="silent"):
        separate(silence, RATE, known, SMALL)
    with pytest.raises(UserError, match="no method"):
        Settings(method="magic")
    with pytest.raises(UserError, match="seed"):
        Settings(seed=2**32)
    with pytest.raises(UserError, match=r"mixture\[None\]"):
        inspect.unwrap(pipeline.analyse)(broadcast.mixture, RATE, known, SMALL)  # without the tests' own check of shapes


@pytest.mark.parametrize("spread", [Settings().spread, None])
def test_streaming_equals_the_whole(broadcast, known, tmp_path, monkeypatch, spread: float | None) -> None:
    """With fixed templates a long file's blocks differ from the whole only through what lies beyond their context."""
    monkeypatch.setattr(streaming, "BLOCK_SECONDS", 3.0)
    monkeypatch.setattr(streaming, "CONTEXT_SECONDS", 0.5)
    settings = dataclasses.replace(SMALL, method="nmf", filter_shape=1e4, gain_shape=1e4, chain=False, spread=spread)
    mix = tmp_path / "mix.wav"
    write(mix, broadcast.mixture[None], RATE, "FLOAT")
    found = streaming.separate_file(mix, known, settings, tmp_path / "s.wav", tmp_path / "m.wav")
    speech, music = read(tmp_path / "s.wav").samples, read(tmp_path / "m.wav").samples
    np.testing.assert_allclose(speech + music, broadcast.mixture[None], atol=1e-6)
    whole = separate(broadcast.mixture[None], RATE, known, settings)
    difference = np.sum((speech - whole.speech) ** 2) / np.sum(whole.speech**2)
    assert difference < 0.05
    assert found.p_music.shape == found.times.shape
    magnitude = preparation.magnitude(broadcast.mixture, preparation.window_of(settings, RATE))[:, : whole.mask.shape[1]]
    for stem, expected in whole.uncertainty(magnitude).items():
        assert np.median(found.uncertainty[stem]) == pytest.approx(np.median(expected), rel=0.05) and np.median(expected) > 0.02


def test_a_long_file_plays_each_stretch_of_music_in_order(broadcast, tmp_path, monkeypatch) -> None:
    """Those that are given and its own, as in memory."""
    mix, seen, build = tmp_path / "mix.wav", [], separators.build_problem
    write(mix, broadcast.mixture[None], RATE, "FLOAT")
    labels = [Segment(1.0, 2.0, "music"), Segment(3.0, 3.5, "music"), Segment(3.5, 4.0, "speech")]
    rng = np.random.default_rng(0)
    given = [rng.standard_normal(n).astype(np.float32) for n in (RATE, 2 * RATE)]
    known = Known([given[0]], given, labels=labels)
    spectrum = np.asarray(stft(jnp.asarray(broadcast.mixture[None]), preparation.window_of(SMALL, RATE)))
    plan = preparation.prepare(
        spectrum, preparation.window_of(SMALL, RATE), RATE, known,
        max_frequency=SMALL.max_frequency, level=SMALL.level, p_music=SMALL.p_music,
    )  # fmt: skip

    def spy(spectra, *rest, **options):
        seen.append(spectra)
        return build(spectra, *rest, **options)

    monkeypatch.setattr(separators, "build_problem", spy)
    streaming.separate_file(mix, known, dataclasses.replace(SMALL, method="nmf"), tmp_path / "s.wav", tmp_path / "m.wav")
    assert len(plan.spectra.stretches or ()) == 4
    for spectra in seen:
        assert spectra.stretches == plan.spectra.stretches
        np.testing.assert_allclose(spectra.music, plan.spectra.music, rtol=1e-3, atol=1e-4)


def test_the_first_pass_holds_no_more_of_a_longer_file(tmp_path, monkeypatch) -> None:
    window, rng = preparation.window_of(Settings(), 8000), np.random.default_rng(0)

    def read(times: np.ndarray) -> preparation.Lessons:
        given = preparation.read_labels(None, times, 0.5)
        return preparation.Lessons(given, given.target, given.target)

    peaks = []
    for seconds in (70, 70, 210):  # the first compiles
        write(tmp_path / "mix.wav", 0.1 * rng.standard_normal((1, seconds * 8000)).astype(np.float32), 8000, "PCM_16")
        gc.collect()  # what earlier passes left would be counted, or not, by chance
        tracemalloc.start()
        found = streaming.survey(tmp_path / "mix.wav", window, 100, read, most=300)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found.speech) == len(found.music) == 300
    frame = 100 * 4 * 8000 / window.hop  # bytes of a second
    assert peaks[2] < peaks[1] + 20 * frame, "of the 140 s that it is longer"


@pytest.mark.parametrize("method", ["variational", "joint"])
def test_streaming_learns_templates_online(broadcast, known, tmp_path, monkeypatch, method: str) -> None:
    monkeypatch.setattr(streaming, "BLOCK_SECONDS", 2.2)
    monkeypatch.setattr(streaming, "CONTEXT_SECONDS", 0.5)
    mix = tmp_path / "mix.wav"
    write(mix, broadcast.mixture[None], RATE, "FLOAT")
    settings = dataclasses.replace(SMALL, method=method, chain=method == "variational")
    found = streaming.separate_file(mix, known, settings, tmp_path / "s.wav", tmp_path / "m.wav")
    assert len(found.trace) == 3
    assert len(found.notes) == settings.chain  # what the chain would have learned of the rest
    gained = float(metrics.si_sdr(broadcast.speech, read(tmp_path / "s.wav").samples[0]))
    assert gained > float(metrics.si_sdr(broadcast.speech, broadcast.mixture)) + 1.0


@pytest.mark.parametrize("method", ["unsupervised", "joint"])
def test_blocks_of_a_long_file_share_one_prior(broadcast, known, tmp_path, monkeypatch, method: str) -> None:
    """What a block learns for itself is no evidence for the others; frames of the mixture count as often as is asked for."""
    monkeypatch.setattr(streaming, "BLOCK_SECONDS", 2.2)
    monkeypatch.setattr(streaming, "CONTEXT_SECONDS", 0.5)
    seen, make = [], streaming.online.online

    def spy(*args, **options):
        algorithm = make(*args, **options)

        def step(key, state, problem, start, share):
            seen.append(problem)
            return algorithm.step(key, state, problem, start, share)

        return algorithm._replace(step=step)

    monkeypatch.setattr(streaming.online, "online", spy)
    mix = tmp_path / "mix.wav"
    write(mix, broadcast.mixture[None], RATE, "FLOAT")
    settings = dataclasses.replace(SMALL, method=method, joint_weight=0.25)
    streaming.separate_file(mix, known, settings, tmp_path / "s.wav", tmp_path / "m.wav")
    assert len(seen) == 3 and not any(any(problem.learn) for problem in seen)
    for problem in seen[1:]:
        jax.tree.map(np.testing.assert_array_equal, problem.hyper.prior, seen[0].hyper.prior)
    weights = np.unique(np.concatenate([problem.frames.weight for problem in seen]))
    np.testing.assert_allclose(weights, [0.0, 0.25, 1 / 3] if method == "joint" else [0.0, 1.0])


@pytest.mark.parametrize("beginning", [0.0, 1e-4])
def test_a_long_file_may_begin_with_silence(broadcast, known, tmp_path, monkeypatch, beginning: float) -> None:
    """Where nothing is trained, what it begins with is no measure of the rest."""
    monkeypatch.setattr(streaming, "BLOCK_SECONDS", 2.2)
    monkeypatch.setattr(streaming, "CONTEXT_SECONDS", 0.5)
    quiet = beginning * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    write(tmp_path / "mix.wav", np.concatenate([quiet, broadcast.mixture])[None], RATE, "FLOAT")
    settings = dataclasses.replace(SMALL, method="unsupervised")
    streaming.separate_file(tmp_path / "mix.wav", known, settings, tmp_path / "s.wav", tmp_path / "m.wav")
    gained = float(metrics.si_sdr(broadcast.speech, read(tmp_path / "s.wav").samples[0, 3 * RATE :]))
    assert gained > float(metrics.si_sdr(broadcast.speech, broadcast.mixture)) + 1.0


def test_what_is_transformed_in_pieces_is_as_the_whole(broadcast, monkeypatch) -> None:
    window = preparation.window_of(Settings(), RATE)
    whole = preparation.modelled(broadcast.mixture, window, 100)
    monkeypatch.setattr(preparation, "AT_ONCE", 10_000)
    pieces = preparation.modelled(broadcast.mixture, window, 100)
    assert whole.shape[1] == 100 and whole.base is None
    np.testing.assert_allclose(pieces, whole, atol=1e-5 * whole.max())


def test_no_more_is_learned_from_a_long_file_than_can_be_held(tmp_path, monkeypatch) -> None:
    """Of six labelled seconds of each, two; what is given besides is learned from in full."""
    monkeypatch.setattr(streaming, "MOST_SECONDS", 2.0)
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 12 * RATE)).astype(np.float32)
    write(tmp_path / "mix.wav", sound, RATE, "FLOAT")
    labels = [Segment(0.0, 6.0, "speech"), Segment(6.0, 12.0, "music")]
    window = preparation.window_of(Settings(), RATE)
    known = Known([sound[0, :RATE]], labels=labels)
    found, speech, (music,) = streaming.material(tmp_path / "mix.wav", RATE, known, window, 20, 0.5)
    second = RATE / window.hop
    assert len(found.speech) == len(music) == round(2 * second)
    assert abs(len(speech) - 3 * second) < 5


def test_a_long_file_says_what_of_it_is_silent(tmp_path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 4 * RATE)).astype(np.float32)
    sound[0, int(1.9 * RATE) :] = 0
    known = Known(labels=[Segment(0.0, 1.0, "speech"), Segment(1.0, 2.0, "music")])
    for scale, says in ((1, "the unlabelled part of .*mix.wav is silent"), (0, "^[^ ]*mix.wav is silent")):
        write(tmp_path / "mix.wav", scale * sound, RATE, "FLOAT")
        given = known if scale else Known([sound[0, :RATE]], [sound[0, :RATE]])
        with pytest.raises(UserError, match=says):
            streaming.separate_file(tmp_path / "mix.wav", given, SMALL, tmp_path / "s.wav", tmp_path / "m.wav")


def test_method_table_is_complete() -> None:
    assert set(METHODS) == {"nmf", "variational", "icm", "joint", "svi", "unsupervised"}
    assert Settings().method in METHODS


def test_a_mask_may_be_sharper_than_shares() -> None:
    shares = np.array([[0.0, 0.2, 0.5, 0.9, 1.0]], np.float32)
    np.testing.assert_array_equal(preparation.sharpen(shares, 1.0), shares)
    np.testing.assert_allclose(preparation.sharpen(np.array([[0.0, 0.4, 0.5, 1.0]]), 1e4), [[0, 0, 0.5, 1]], atol=1e-9)
    np.testing.assert_allclose(preparation.sharpen(shares, 2.0), shares**2 / (shares**2 + (1 - shares) ** 2), rtol=1e-6)


@pytest.mark.parametrize(("faint", "passing"), [(None, []), (20.0, [0, 1, 2]), (6.0, [0, 1, 2, 4, 5]), (1e-3, [0, 1, 2, 4, 5])])
def test_music_that_is_hardly_heard_is_none(faint: float | None, passing: list[int]) -> None:
    """Six stretches of four seconds: speech for sure, faint music twice, faint music without doubt, music of -12 dB twice."""
    n, music = 40, np.array([0.0, 0.01, 0.05, 0.01, 0.25, 0.25], np.float32)
    mask = np.repeat(1 - music, n)[:, None] * np.ones((1, 3), np.float32)
    prior = np.repeat(np.array([0.05, 0.6, 0.74, 0.8, 0.6, 0.5], np.float32), n)
    target = np.repeat(np.array([False, True, True, True, True, True]), n)
    given = preparation.Given(target, np.ones(6 * n, bool), ~target, np.zeros(6 * n, bool), prior)
    found = preparation.without_faint(mask, np.ones((6 * n, 3), np.float32), given, 10.0, faint)
    middle = found.reshape(6, n, 3)[:, 10:-10]
    assert [k for k in range(6) if (middle[k] == 1).all()] == (passing or [0])
    changed = (found != mask).any(1)
    np.testing.assert_array_equal(found[~changed], mask[~changed])
    assert not changed[prior > preparation.DOUBTED].any()


def test_of_what_passes_nothing_is_unsure(broadcast, known) -> None:
    few = dataclasses.replace(SMALL, sweeps=5, training_sweeps=5, faint=6.0)
    labels = [Segment(0.0, 3.0, "speech", 0.6), Segment(3.0, 6.0, "speech+music")]
    mixture = np.where(np.arange(len(broadcast.mixture)) < 3 * RATE, broadcast.speech, broadcast.mixture)
    result = separate(mixture[None], RATE, known._replace(labels=labels), few)
    passes = (result.mask == 1).all(1)
    assert (passes & result.target).any() and not passes.all()
    np.testing.assert_array_equal(result.mask_std[passes], 0)
    magnitude = np.abs(np.asarray(stft(jnp.asarray(mixture), preparation.window_of(few, RATE))))
    of_music = result.uncertainty(magnitude[:, : result.mask.shape[1]])["music"]
    assert not of_music[passes].any() and of_music[~passes].any() and of_music.max() < 100
    low, high = result.interval(0.95)
    np.testing.assert_array_equal(low[passes], 1)
    assert (high - low)[~passes & result.target].max() > 0.1


def test_the_power_of_the_mask_changes_stems_alone(broadcast, known) -> None:
    few = dataclasses.replace(SMALL, sweeps=5, training_sweeps=5)
    one, two = (separate(broadcast.mixture[None], RATE, known, dataclasses.replace(few, mask_power=p)) for p in (1.0, 2.0))
    np.testing.assert_array_equal(one.mask, two.mask)
    assert np.abs(one.speech - two.speech).max() > 1e-3


def test_intervals_are_nested_and_points_where_labels_settle() -> None:
    made = generate_broadcast(0, seconds=16.0, layout="programme")
    few = dataclasses.replace(SMALL, sweeps=5, training_sweeps=5)
    for spread in (1.6, None):
        found = separate(made.mixture[None], RATE, Known(labels=made.labels), dataclasses.replace(few, spread=spread))
        (low, high), (lower, higher) = (found.interval(level) for level in (0.5, 0.95))
        assert np.all((0 <= lower) & (lower <= low) & (low <= high) & (high <= higher) & (higher <= 1))
        assert np.all(low[~found.target] == found.mask[~found.target]) and np.all(high[~found.target] == found.mask[~found.target])
        assert (higher - lower)[found.target].mean() > 0.1


def test_a_repeat_that_is_silent_somewhere_breaks_nothing(broadcast, known, monkeypatch) -> None:
    """Entries that start at nothing would have infinite gradients."""
    find = separators.repetition.find

    def silent(*arguments):
        found = find(*arguments)
        assert found is not None
        return found._replace(missing=found.missing * (np.arange(found.missing.shape[1]) % 2))

    monkeypatch.setattr(separators.repetition, "find", silent)
    few = dataclasses.replace(SMALL, method="svi", sweeps=5, training_sweeps=5)
    assert np.isfinite(separate(broadcast.mixture[None], RATE, known, few).bound)


@pytest.mark.parametrize("name", ["overlap", "mask_power", "faint", "temperature", "spread", "entry_shape", "speech_shape"])
def test_settings_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is"):
        Settings(**{name: -1.0})


def test_frames_must_overlap() -> None:
    with pytest.raises(UserError, match="overlap is 0.2, but must be at least 0.25"):
        Settings(overlap=0.2)
