"""What methods are compared with: does each do what it stands for."""

import builtins
import importlib

import numpy as np
import pytest

from bayessep import baselines, metrics
from bayessep.baselines import BASELINES, SHARPER, Problem
from bayessep.broadcast import generate_broadcast
from bayessep.errors import UserError
from bayessep.stft import stft_for_rate

RATE = 16000


@pytest.fixture(scope="module")
def problem() -> Problem:
    made = generate_broadcast(3, seconds=6.0, jingle_seconds=2.0, training_seconds=6.0)
    window = stft_for_rate(RATE)
    return Problem(made.mixture, (made.training_speech,), made.labelled_music, made.speech, made.music, window, RATE)


@pytest.fixture(scope="module")
def scores(problem: Problem) -> dict[str, float]:
    return {name: float(metrics.si_sdr(problem.speech, baselines.separate(name, problem))) for name in (*BASELINES, *SHARPER)}


@pytest.mark.loose_arrays
def test_each_gives_speech_of_the_length_of_the_mixture(problem: Problem) -> None:
    for name in (*BASELINES, *SHARPER):
        speech = baselines.separate(name, problem)
        assert speech.shape == problem.mixture.shape and np.all(np.isfinite(speech)), name


@pytest.mark.loose_arrays
def test_nothing_exceeds_masks_made_from_the_truth(scores: dict[str, float]) -> None:
    assert max(scores, key=scores.__getitem__).startswith("ideal")
    assert scores["REPET-SIM, even margins"] != scores["REPET-SIM"] and scores["KL-NMF, sharper"] != scores["KL-NMF"]
    assert scores["KL-NMF"] > scores["mixture"] + 3


def test_the_mixture_is_left_alone(problem: Problem) -> None:
    np.testing.assert_array_equal(baselines.separate("mixture", problem), problem.mixture)


@pytest.mark.loose_arrays
def test_the_seed_decides(problem: Problem) -> None:
    first, again = (baselines.separate("KL-NMF", problem) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - baselines.separate("KL-NMF", problem._replace(seed=1))).max() > 1e-4


@pytest.mark.parametrize(("name", "package"), [("KL-NMF", "scikit-learn"), ("REPET-SIM", "librosa"), ("HPSS", "librosa")])
def test_a_library_that_is_not_there_is_named(problem: Problem, name: str, package: str, monkeypatch) -> None:
    def refuse(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UserError, match=rf"{package} is not installed; pip install 'bayessep\[baselines\]'"):
        baselines.separate(name, problem)


def test_no_library_is_imported_before_it_is_asked_for(monkeypatch) -> None:
    asked = []
    original = builtins.__import__

    def watch(name, *rest):
        asked.append(name.split(".")[0])
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", watch)
    importlib.reload(baselines)
    assert not {"sklearn", "librosa"} & set(asked)
