"""Detection in bounded memory: no seams, a frame for every moment, the best path, segments that cover; and what is refused."""

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayessep import audio, detection, shipped
from bayessep.detection import CONTEXT, LABELS, WINDOW, Calibration, Network, Smoothing
from bayessep.detector_data import scaled
from bayessep.detector_training import Recipe
from bayessep.errors import UserError
from bayessep.models import speech_music_detector as detector
from bayessep.models.detector_networks import STRIDE
from bayessep.timeline import BOTH, MUSIC, SILENCE, SPEECH

# flax multiplies numbers of Python into its arrays.
pytestmark = pytest.mark.loose_arrays

RATE = 16000
FRAME = 640  # samples of 40 ms
SMALL = Recipe(network="frames", head="single", bands=4, neither=True, standardised=False)


CALIBRATION = Calibration(1.5, (0.1, -0.2, 0.3, 0.0))


@cache
def _network() -> Network:
    """Two small ones that have learned nothing, and say different things of different sound."""
    return Network(SMALL, tuple(detector.init(SMALL.detector, jax.random.key(n)) for n in range(2)), CALIBRATION)


def _levels(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-100, 0, (rows, SMALL.front.width)).astype(np.float32)


def _noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def _pieces(x: np.ndarray, *sizes: int) -> Iterator[np.ndarray]:
    """Cut into pieces of these sizes, over and over."""
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(x):
            return
        yield x[at : at + size]
        at += size


def _in_one_run(levels: np.ndarray) -> np.ndarray:
    """All of it at once, embedded in more silence than the network can see."""
    rows = np.full((STRIDE * (2 * WINDOW + 3 * CONTEXT), levels.shape[1]), -100, np.float32)
    rows[CONTEXT * STRIDE : CONTEXT * STRIDE + len(levels)] = levels
    network = _network()
    x = jnp.asarray(scaled(rows))[None]
    first, second = (np.asarray(detector.predict(network.recipe.detector, state, x).classes[0]) for state in network.states)
    return ((first + second) / 2)[CONTEXT : CONTEXT + len(levels) // STRIDE]


# --- no seams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        *(STRIDE * WINDOW + more for more in (-STRIDE, -1, 0, 1, STRIDE)),
        *(STRIDE * (WINDOW + CONTEXT) + more for more in (-1, 0, 1)),
        *(2 * STRIDE * WINDOW + more for more in (-1, 0, 3)),
        *(STRIDE, STRIDE + 3, 401),
    ],
)
@pytest.mark.parametrize("sizes", [(10**9,), (1000,), (STRIDE * WINDOW, 1, 0, STRIDE * CONTEXT, 7)])
def test_windows_have_no_seams_wherever_pieces_begin(rows: int, sizes: tuple[int, ...]) -> None:
    levels = _levels(rows)
    found = np.concatenate(list(detection.logits(_pieces(levels, *sizes), _network())))
    expected = _in_one_run(levels)
    assert found.shape == expected.shape == (rows // STRIDE, 4)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_what_is_less_than_a_frame_is_said_nothing_of() -> None:
    assert list(detection.logits([_levels(STRIDE - 1)], _network())) == []
    assert list(detection.logits([], _network())) == []


def test_no_more_is_held_than_a_window_and_what_it_sees() -> None:
    asked = 0

    def pieces() -> Iterator[np.ndarray]:
        nonlocal asked
        for n in range(30):
            asked += 1
            yield _levels(1000, n)

    said = 0
    for part in detection.logits(pieces(), _network()):
        said += len(part)
        # One piece more, because the last one has to be known as such.
        assert (asked - 2) * 1000 < STRIDE * (said + CONTEXT) or asked == 30
    assert said == 30_000 // STRIDE


# --- frames of a recording -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, FRAME - 1, FRAME, FRAME + 1, 5 * FRAME + 399, RATE, RATE + 1])
def test_every_moment_has_a_frame(samples: int) -> None:
    found = detection.detect_samples(_noise(samples), _network())
    assert found.hop == 0.04 and found.duration == samples / RATE
    assert found.speech.shape == found.music.shape == (-(-samples // FRAME),)
    for p in (found.speech, found.music):
        assert p.dtype == np.float32 and (0 < p).all() and (p <= 1).all()
    assert (found.segments[0].start, found.segments[-1].end) == (0, found.duration)


@pytest.mark.parametrize("frame", [0, 1, 7])
def test_frames_are_where_their_times_say(frame: int, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []

    def listened(pieces: Iterator[np.ndarray], network: Network) -> Iterator[np.ndarray]:
        levels.extend(pieces)
        yield np.zeros((sum(map(len, levels)) // STRIDE, 4), np.float32)

    monkeypatch.setattr(detection, "logits", listened)
    click = np.zeros(20 * FRAME, np.float32)
    click[frame * FRAME + FRAME // 2] = 1.0
    detection.detect_samples(click, _network())
    loudest = np.concatenate(levels).max(1)
    (heard,) = np.nonzero(loudest > -99)
    # The click is midway between the second and the third of its four.
    assert heard.tolist() == [STRIDE * frame + 1, STRIDE * frame + 2]
    assert loudest[heard[0]] == pytest.approx(loudest[heard[1]], abs=0.2)


def test_probabilities_are_calibrated_ones_of_the_classes() -> None:
    x = _noise(4 * RATE)
    found = detection.detect_samples(x, _network())
    logits = _in_one_run(np.concatenate(list(detection.stream_levels(detection._in_silence([x], SMALL.front), SMALL.front))))
    p = np.exp(logits[:100] / CALIBRATION.temperature + np.array(CALIBRATION.bias))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(found.speech, p[:, detector.SPEECH] + p[:, detector.BOTH], rtol=1e-4)
    np.testing.assert_allclose(found.music, p[:, detector.MUSIC] + p[:, detector.BOTH], rtol=1e-4)
    assert [LABELS[k] for k in (detector.SPEECH, detector.MUSIC, detector.BOTH, detector.NEITHER)] == [SPEECH, MUSIC, BOTH, SILENCE]


@pytest.mark.parametrize("block_seconds", [0.013, 1.0, 20.0])
def test_a_file_is_as_its_samples(block_seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "BLOCK_SECONDS", block_seconds)
    x = _noise(3 * RATE + 123)
    audio.write(tmp_path / "a.wav", np.stack([x, 0.5 * x]), RATE, subtype="FLOAT")
    told = []
    found = detection.detect(tmp_path / "a.wav", network=_network(), progress=lambda *said: told.append(said))
    expected = detection.detect_samples(0.75 * x, _network())
    np.testing.assert_allclose(found.speech, expected.speech, atol=1e-5)
    np.testing.assert_allclose(found.music, expected.music, atol=1e-5)
    assert [s[:3] for s in found.segments] == [s[:3] for s in expected.segments] and found.duration == expected.duration
    assert told[-1][:3] == ("detecting", 3, 3) and [done for _, done, *_ in told] == sorted(done for _, done, *_ in told)


@pytest.mark.parametrize(("rate", "samples"), [(44100, 44100 + 17), (8000, 8001), (96000, 95999)])
def test_other_rates_end_when_the_recording_ends(rate: int, samples: int, tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", _noise(samples)[None], rate)
    found = detection.detect(tmp_path / "a.wav", network=_network())
    assert found.duration == found.segments[-1].end == samples / rate
    assert abs(len(found.speech) * found.hop - found.duration) <= found.hop


def test_what_is_too_long_to_be_held_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, network = tmp_path / "a.wav", _network()
    audio.write(path, 0.01 * _noise(48_000)[None], 16_000)
    once = detection.detect(path, network=network)
    monkeypatch.setattr(detection, "HELD", 20_000)
    monkeypatch.setattr(detection, "BLOCK_SECONDS", 0.5)
    twice = detection.detect(path, network=network)
    np.testing.assert_allclose(twice.speech, once.speech, atol=1e-5)
    assert twice.duration == once.duration == 3.0


def test_how_loud_a_recording_is_decides_nothing() -> None:
    x = _noise(48_000)
    x[16_000:24_000] *= 0.01
    network = _network()
    first, *others = (detection.detect_samples((x * gain).astype(np.float32), network) for gain in (0.1, 0.03, 0.01))
    for other in others:
        assert [s.label for s in other.segments] == [s.label for s in first.segments]
        np.testing.assert_allclose(other.speech, first.speech, atol=1e-3)
        np.testing.assert_allclose(other.music, first.music, atol=1e-3)


def test_loudness_is_that_of_what_is_heard_however_it_comes() -> None:
    time = np.arange(3 * 16_000) / 16_000
    x = (0.1 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    assert detection.loudness([x], 16_000) == pytest.approx(-23.01, abs=0.01)
    x[16_000:32_000] *= 1e-3  # a pause
    whole = detection.loudness([x], 16_000)
    assert whole == pytest.approx(-23.01, abs=0.1)
    for size in (1, 999, 1600, 40_000):
        assert detection.loudness(np.split(x, range(size, len(x), size)), 16_000) == pytest.approx(whole, abs=1e-6)
    assert detection.loudness([np.zeros(9)], 16_000) == detection.loudness([], 16_000) == -np.inf
    assert detection.level_gain(-200.0) == pytest.approx(100) and detection.level_gain(-20.0) == 1
    assert detection.level_gain(-37.0) == pytest.approx(10 ** (13 / 20)) and detection.level_gain(-7.0) == pytest.approx(10**-0.5)


def test_channels_that_cancel_are_heard(tmp_path: Path) -> None:
    x = _noise(2 * RATE)
    for name, samples in (("mono", x[None]), ("wide", np.stack([x, -x]))):
        audio.write(tmp_path / f"{name}.wav", samples, RATE, "FLOAT")
    mono, wide = (detection.detect(tmp_path / f"{name}.wav", network=_network()) for name in ("mono", "wide"))
    np.testing.assert_array_equal(mono.speech, wide.speech)
    assert mono.segments == wide.segments


def test_what_nobody_can_hear_is_refused(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", np.zeros((1, RATE), np.float32), RATE)
    with pytest.raises(UserError, match="a.wav is silent"):
        detection.detect(tmp_path / "a.wav", network=_network())
    for samples, words in ((np.zeros(RATE), "silent"), (np.zeros(0), "silent"), (np.full(9, np.nan), "NaN")):
        with pytest.raises(UserError, match=words):
            detection.detect_samples(samples.astype(np.float32), _network())


# --- segments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stay", [0.05, 0.3, 0.6, 0.99])
@pytest.mark.parametrize(("frames", "states"), [(1, 4), (2, 3), (5, 4), (7, 2)])
def test_no_path_is_more_probable(frames: int, states: int, stay: float) -> None:
    for seed in range(10):
        evidence = 2 * np.random.default_rng(seed).standard_normal((frames, states))

        def worth(path: tuple[int, ...], evidence: np.ndarray = evidence) -> float:
            steps = [stay if a == b else (1 - stay) / (states - 1) for a, b in itertools.pairwise(path)]
            return float(sum(evidence[t, s] for t, s in enumerate(path)) + np.log(steps).sum())

        best = max(itertools.product(range(states), repeat=frames), key=worth)
        assert tuple(detection.viterbi(evidence, stay)) == best


def _said(*runs: tuple[str, int]) -> np.ndarray:
    """Probabilities of a detector that is quite sure: labels, each for so many frames."""
    states = np.concatenate([np.full(count, LABELS.index(label)) for label, count in runs])
    return np.where(np.arange(4) == states[:, None], 0.97, 0.01).astype(np.float32)


def test_segments_cover_a_recording_and_are_long_enough() -> None:
    rng, smoothing = np.random.default_rng(0), Smoothing()
    several = 0
    for _ in range(60):
        # Runs of all lengths, the shortest ones, too.
        labels = [str(label) for label in rng.choice(LABELS, 12)]
        p = _said(*((label, int(rng.geometric(rng.choice([0.5, 0.1, 0.03])))) for label in labels))
        p = np.clip(p + rng.uniform(-0.01, 0.3, p.shape), 1e-3, None)
        p = (p / p.sum(1, keepdims=True)).astype(np.float32)
        duration = (len(p) - rng.uniform(0, 1)) * 0.04
        made = detection.segments_of(p, 0.04, duration, Smoothing(stay=0.2))
        assert made[0].start == 0 and made[-1].end == duration
        for before, after in itertools.pairwise(made):
            assert before.end == after.start and before.label != after.label
        several += len(made) > 1
        for s in made if len(made) > 1 else []:
            assert s.end - s.start >= smoothing.shortest - 1e-5
            assert s.probability is not None and 0 < s.probability <= 1
            if s.label == SILENCE and s.end < duration:
                assert s.end - s.start >= smoothing.shortest_silence - 1e-5
    assert several > 30


def test_pauses_are_shared_by_what_is_around_them() -> None:
    p = _said((SPEECH, 50), (SILENCE, 10), (MUSIC, 50), (SILENCE, 20), (SPEECH, 30), (SILENCE, 14))
    made = detection.segments_of(p, 0.04, len(p) * 0.04)
    assert [s.label for s in made] == [SPEECH, MUSIC, SILENCE, SPEECH]
    np.testing.assert_allclose([s.end for s in made], [2.2, 4.4, 5.2, 6.96])
    # Half of the pause was not likely to be speech, and that is said.
    assert made[0].probability == pytest.approx((50 * 0.97 + 5 * 0.01) / 55, abs=1e-6)
    assert made[2].probability == pytest.approx(0.97)
    first = detection.segments_of(_said((SILENCE, 14), (MUSIC, 50)), 0.04, 64 * 0.04)
    assert [s.label for s in first] == [MUSIC]
    alone = detection.segments_of(_said((SILENCE, 5)), 0.04, 0.2)
    assert [s[:3] for s in alone] == [(0, 0.2, SILENCE)]


@pytest.mark.parametrize("before", range(50, 90))
def test_the_shortest_duration_is_long_enough_wherever_it_is(before: int) -> None:
    p = _said((SPEECH, before), (MUSIC, 10), (SPEECH, 50), (MUSIC, 9), (SPEECH, 50))
    made = detection.segments_of(p, 0.04, len(p) * 0.04)
    assert [s.label for s in made] == [SPEECH, MUSIC, SPEECH]


# --- weights -------------------------------------------------------------------------------------------------------------


def test_written_and_read_it_says_the_same(tmp_path: Path) -> None:
    network = _network()
    weights = detection.weights_of(SMALL, network.states, CALIBRATION, corpus="made up")
    shipped.write_file(tmp_path / "a.safetensors", weights)
    read = shipped.read_file(tmp_path / "a.safetensors")
    assert read.settings["corpus"] == "made up" and read.settings["labels"] == list(LABELS)
    again = detection.network_of(read)
    assert again.recipe == SMALL and again.calibration == CALIBRATION
    x = _noise(RATE)
    for mine, theirs in zip(detection.detect_samples(x, network), detection.detect_samples(x, again), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "b3"}, "network b3 looks at single patches"),
        ({"bands": 5}, "another network"),
        ({"head": "multi"}, "another network"),
        ({"standardised": True}, "standardised = false"),
        ({"feature": "MHPS-EF"}, "decibels"),
        ({"feature": "none"}, "choose one of"),
        ({"colour": 3}, "not the weights of a detector"),
        ({"songs": 1}, "not the weights of a detector"),
    ],
)
def test_weights_of_other_networks_are_refused(change: dict, words: str) -> None:
    weights = detection.weights_of(SMALL, _network().states)
    other = weights._replace(settings=weights.settings | {"recipe": weights.settings["recipe"] | change})
    with pytest.raises(UserError, match=words):
        detection.network_of(other)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"recipe": None}, {"temperature": "hot"}, {"temperature": 0}, {"temperature": np.nan}, {"members": 0},
        {"bias": [1.0]}, {"bias": [0, 0, 0, np.inf]}, {"bias": 3},
    ],  # fmt: skip
)
def test_weights_of_no_detector_are_refused(settings: dict) -> None:
    weights = detection.weights_of(SMALL, _network().states)
    with pytest.raises(UserError, match="not the weights of a detector"):
        detection.network_of(weights._replace(settings=(weights.settings | settings) if settings else {}))


@pytest.mark.parametrize("change", [lambda x: x * np.float32(np.nan), lambda x: x.astype(np.int32)], ids=["nan", "whole"])
def test_what_are_no_numbers_label_nothing(change: Callable[[np.ndarray], np.ndarray]) -> None:
    weights = detection.weights_of(SMALL, _network().states)
    with pytest.raises(UserError, match="not the weights of a detector .*no finite numbers"):
        detection.network_of(weights._replace(arrays={name: change(x) for name, x in weights.arrays.items()}))
