"""Convolutive NMF on recordings: that it separates, alone and in windows, what labels settle, and its verb."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayessep import audio, convolutive, metrics, neural
from bayessep.convolutive import Convolutive
from bayessep.errors import UserError
from bayessep.preparation import Known
from bayessep.timeline import Segment
from tests.commandline import Caller

RATE = 8000
CONFIG = Convolutive(templates=8, frames=4, training_sweeps=30, sweeps=20)


def _sources(seed: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Gliding tones as speech, pulses of noise as music."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * RATE)) / RATE
    speech = np.sin(2 * np.pi * (600 * time + 60 * np.sin(2 * np.pi * 1.5 * time + seed)))
    music = rng.normal(0, 1, len(time)) * (np.sin(2 * np.pi * 3 * time) > 0.6)
    return speech.astype(np.float32), music.astype(np.float32)


def _learned(**changes: Any) -> convolutive.Templates:
    speech, music = _sources(1, 3.0)
    mixture = np.add(*_sources(2, 1.0))[None]
    return convolutive.learn_of(mixture, RATE, Known((speech,), (music,)), dataclasses.replace(CONFIG, **changes))


def test_it_separates_better_than_nothing() -> None:
    speech, music = _sources(3, 3.0)
    mixture = (speech + music)[None]
    before = metrics.si_sdr(speech, mixture[0])
    found = neural.separate(mixture, RATE, _learned())
    np.testing.assert_allclose(found.speech + found.music, mixture, atol=1e-6)
    assert metrics.si_sdr(speech, found.speech[0]) > before + 5
    sure = [np.sum(neural.separate(mixture, RATE, _learned(alpha=alpha)).speech ** 2) for alpha in (0.1, 0.5, 0.9)]
    assert sure[0] > sure[1] > sure[2]


def test_windows_say_what_the_whole_says() -> None:
    """To 60 dB and far beyond, as what is found in one window of frames depends on no other; at the very end, to 40 dB."""
    learned = _learned()
    x = np.stack([np.add(*_sources(n, 5.3)) for n in (4, 5)])
    found = np.concatenate(list(neural.in_windows([x], learned, 0.5, (1.0, 2.0))), axis=-1)
    whole = 0.5 * learned.predict(x / np.float32(0.5), x.shape[1], 0)
    wrong, end = (found - whole) ** 2, x.shape[1] - learned.stft.n_fft
    assert np.sum(wrong[..., :end]) < 1e-9 * np.sum(whole**2)
    assert np.sum(wrong) < 1e-4 * np.sum(whole[..., end:] ** 2)


def test_labels_settle_what_they_label_and_teach() -> None:
    speech, music = _sources(6, 6.0)
    heard = np.arange(len(speech)) / RATE
    speech = np.where(heard < 2, 0, speech).astype(np.float32)
    music = np.where((heard >= 2) & (heard < 4), 0, music).astype(np.float32)
    labels = (Segment(0.0, 2.0, "music"), Segment(2.0, 4.0, "speech"), Segment(4.0, 6.0, "speech+music"))
    mixture = (speech + music)[None]
    learned = convolutive.learn_of(mixture, RATE, Known(labels=labels), CONFIG)
    found = np.concatenate(list(neural.in_windows([mixture], learned, 1.0, (1.0, 2.0))), axis=-1)[0]
    inside = (heard > 0.1) & (heard < 1.9)
    assert np.abs(found[0, inside]).max() < 1e-5 and np.abs(found[1, inside] - music[inside]).max() < 1e-5
    inside = (heard > 2.1) & (heard < 3.9)
    np.testing.assert_allclose(found[0, inside], speech[inside], atol=1e-5)
    last = heard > 4.1
    assert metrics.si_sdr(speech[last], found[0, last]) > metrics.si_sdr(speech[last], mixture[0, last]) + 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"templates": 0}, "templates is 0"), ({"alpha": 1.0}, "alpha is 1"), ({"overlap": 1.0}, "overlap is 1")],
)
def test_impossible_numbers_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Convolutive(**changes)


@pytest.mark.parametrize("long", [False, True])
def test_the_verb_takes_what_the_bayesian_methods_take(
    call: Caller, tmp_path: Path, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if long:
        monkeypatch.setattr("bayessep.recordings.LONG_SECONDS", 1.0)
    speech, music = _sources(1, 2.0)
    paths = {name: tmp_path / f"{name}.wav" for name in ("speech", "music", "mix")}
    mixture = np.add(*_sources(2, 3.0))[None] / 4
    for path, samples in zip(paths.values(), (speech[None], music[None] / 8, mixture), strict=True):
        audio.write(path, samples, RATE)
    known = ["--speech", paths["speech"], "--music", paths["music"]]
    flags = ["--bases", "4", "--sweeps", "5", "--training-sweeps", "5", "-o", tmp_path / "apart"]
    done = call("separate", paths["mix"], "--method", "conv-nmf", *known, *flags, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["method"] == "conv-nmf" and document["settings"]["templates"] == 4
    stems = [audio.read(tmp_path / "apart" / name).samples for name in ("speech.wav", "music.wav")]
    np.testing.assert_allclose(sum(stems), document["output_gain"] * audio.read(paths["mix"]).samples, atol=1e-6)
    other = call("separate", paths["mix"], "--method", "conv-nmf", *known, "--chain", "-o", tmp_path / "other")
    assert other.code == 2 and "--chain does not apply to conv-nmf" in other.err
    bare = call("separate", paths["mix"], "--method", "conv-nmf", "-o", tmp_path / "other")
    assert bare.code == 2 and "conv-nmf needs examples of the speech" in bare.err
    assert not (tmp_path / "other").exists()
