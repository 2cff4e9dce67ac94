"""Recognition of paper 001 on real recordings: recognisers of clean and of mixed speech, alone, behind separators, and tuned.

Recordings of a small vocabulary, from a manifest's speech with transcripts, are joined into utterances. Speakers are the same in
training and test: some recordings of each are for training, others for the test. Music is divided by artist, as in
`bayessep.woo2020`. Every joint training starts from separately trained parts, as in the paper; the mixture ASR continues from the
weights of the clean one, of which the paper says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bayessep import __version__, joint_training, metrics, recogniser_training, recognition, reproduction, spoken, vocabulary
from bayessep.detector_data import gain_of, seconds_of
from bayessep.detector_release import division
from bayessep.errors import UserError
from bayessep.joint_training import Parts
from bayessep.models import attention_asr, beam_search, joint_asr
from bayessep.models.joint_asr import BACK, BOTH, FRONT
from bayessep.recogniser_training import RATE, Material, about_material, drawn, most_labels
from bayessep.recognisers import WIDTH
from bayessep.reproduction import RESULTS, append, drop_half_a_line, key_of, read
from bayessep.separator_training import stretch
from bayessep.spoken import Spoken
from bayessep.train import Progress, Trained, train
from bayessep.woo2020 import FREQUENCY, RATIOS, TIME, check_heard, genres

CLEAN, MIXTURE = "clean", "mixture"
BACKS = (CLEAN, MIXTURE)
CONDITIONS: tuple[float | None, ...] = (None, *RATIOS)
"""Speech alone, and speech with music at these ratios in decibels."""
KEY = ("row", "smr_db", "utterance")
"""Fields that identify a result."""


class Row(NamedTuple):
    """A recognition system: a recogniser, the separator before it, and their tuning."""

    back: str  # one of `BACKS`: what the recogniser was trained on
    front: str = ""  # the separator before it
    tuned: str = ""  # which of the two are trained further: one of `TUNED`

    @property
    def name(self) -> str:
        """Name of its results and of its training folder."""
        return "-".join(part for part in (self.front, self.back, self.tuned) if part)


LONGER = Row(MIXTURE, "", BACK)
"""The mixture ASR alone, trained further for as long as rows are tuned: tuning must bring more than that."""
ROWS = (
    *(Row(back) for back in BACKS),
    LONGER,
    *(Row(back, front, tuned) for front in (FREQUENCY, TIME) for back in BACKS for tuned in ("", FRONT, BACK, BOTH)),
)
"""Table I: both recognisers alone, and each behind both separators, trained separately or tuned in three ways; and `LONGER`."""


@dataclass(frozen=True)
class Budget:
    """How long networks are trained, and on how much they are tested.

    Attributes:
        clean, mixture: recipes of the recognisers.
        fronts: recipe of each separator.
        joint: recipe of tuning.
        each: utterances per test recording of music.
    """

    clean: recogniser_training.Recipe
    mixture: recogniser_training.Recipe
    fronts: Mapping[str, joint_training.Recipe]
    joint: recogniser_training.Recipe
    each: int


def _budget(epochs: Mapping[str, int], each: int, **rest: Any) -> Budget:
    """Return a budget for utterances of digits, in epochs of 50 steps; `rest` replaces values of all recipes."""
    usual = recogniser_training.Recipe(
        subwords=0, only="digits", joined=5, seconds=3.0, held=64,
        steps_per_epoch=50, patience=1000, average=0.99, falls=True, speed=1.25,
    )
    usual = replace(usual, **rest)
    mixed = replace(usual, mixture=True)
    apart = replace(mixed, batch=max(1, usual.batch // 2), epochs=epochs["front"])
    return Budget(
        replace(usual, epochs=epochs["clean"]),
        replace(mixed, epochs=epochs["mixture"]),
        {name: joint_training.Recipe(apart, name, tuned=FRONT, weight=0.0) for name in (FREQUENCY, TIME)},
        replace(mixed, batch=apart.batch, rate=3e-4, epochs=epochs["joint"]),
        each,
    )


BUDGETS = {
    "full": _budget({"clean": 24, "mixture": 120, "front": 100, "joint": 40}, each=12),
    "quick": _budget({"clean": 1, "mixture": 1, "front": 1, "joint": 1}, each=1, batch=4, held=4, steps_per_epoch=4),
}
"""About three core hours, and a budget that only shows that it runs."""


# --- training, validation and test material ------------------------------------------------------------------------------

LEAST = 10
"""Minimum number of recordings of a speaker; others are left out."""


class Division(NamedTuple):
    """Training, validation and test material: speakers are in all of them, recordings and artists in one each."""

    learn: Material
    held: Material
    test: Material


def dealt(every: Sequence[Spoken]) -> tuple[list[Spoken], list[Spoken], list[Spoken]]:
    """Split each speaker's recordings, sorted by words: of every ten, seven for training, one for validation, two for test."""
    found: tuple[list[Spoken], list[Spoken], list[Spoken]] = ([], [], [])
    for group in sorted({one.group for one in every}):
        own = sorted((one for one in every if one.group == group), key=lambda one: (one.words, one.name))
        for n, one in enumerate(own if len(own) >= LEAST else ()):
            found[{0: 2, 5: 2, 9: 1}.get(n % 10, 0)].append(one)
    return found


def divide(recordings: Path, only: Sequence[str], speech: Path | None = None) -> Division:
    """Divide the recordings of a manifest; training uses only redistributable ones. Speech of another folder may have any licence.

    Raises:
        UserError: there is no manifest, no speaker has said enough of these words, or as `spoken.listed`.
    """
    if not (recordings / "manifest.csv").is_file():
        raise UserError(f"{recordings} has no manifest.csv, by which music is found; other speech alone is given with --speech.")
    every = dealt(spoken.read(spoken.listed(speech or recordings, only=only, redistributable=speech is None)))
    if not all(every):
        said, where = f" of the words {', '.join(only)} alone" * bool(only), speech or recordings
        raise UserError(f"{where} has no speaker of {LEAST} recordings{said}; add some, so that they can be divided.")
    music = division(recordings, music_alone=speech is not None)
    return Division(*(Material(own, part.music) for own, part in zip(every, (music.learn, music.held, music.test), strict=True)))


class Utterance(NamedTuple):
    """Speech, music before it is scaled to a ratio, and what is said."""

    number: int
    speech: Float[np.ndarray, " N"]
    music: Float[np.ndarray, " N"]
    words: str
    speaker: str
    group: str  # of the music
    genre: str


def utterances(
    recipe: recogniser_training.Recipe, of: Material, named: Mapping[str, str], each: int, seed: int
) -> Iterator[Utterance]:
    """Yield `each` utterances, of randomly drawn speakers, for every recording of music.

    Raises:
        UserError: as `check_heard`.
    """
    still = replace(recipe, speed=1.0, mixture=False)
    for number, music in enumerate(item for item in of.music for _ in range(each)):
        rng = np.random.default_rng([seed, 6, number])
        made, _ = drawn(still, of, 1, lambda _: 0.0, rng)
        speech = made.waveform[0, : made.samples[0]]
        genre = named.get(music.group, "not said")
        played = stretch([music], len(speech), rng)
        check_heard(music.group, speech, played)
        yield Utterance(number, speech, played, made.words[0], made.groups[0], music.group, genre)


# --- networks ------------------------------------------------------------------------------------------------------------


class Networks:
    """Networks, trained when they are first needed; in `folder`, interrupted trainings are resumed."""

    def __init__(self, budget: Budget, parts: Division, folder: Path, progress: Progress = lambda *_: None) -> None:
        self.budget, self.parts, self.folder, self.progress = budget, parts, folder, progress
        self.words = vocabulary.learned([one.words for one in parts.learn.speech], budget.clean.size)
        self.most = max(most_labels(budget.clean, parts.learn, other, self.words) for other in (parts.held, parts.test))
        self.about = {"data": {name: about_material(own) for name, own in zip(("learn", "held"), parts, strict=False)}}
        self.clean = cache(self._clean)
        self.mixture = cache(self._mixture)
        self.longer = cache(self._longer)
        self.front = cache(self._front)
        self.joint = cache(self._joint)

    def parts_of(self, row: Row) -> Parts:
        """Return the networks of a row; `front` is None without a separator."""
        if row.front and row.tuned:
            state = self.joint(row).state
            return Parts(state.front, state.back, state.statistics)
        back = (self.longer if row.tuned else self.clean if row.back == CLEAN else self.mixture)().state
        return Parts(self.front(row.front).state.front if row.front else None, back.parameters, back.statistics)

    def recipe(self, row: Row) -> joint_training.Recipe:
        """Return the recipe by which a row is tuned."""
        return replace(self.budget.fronts[row.front], utterances=self.budget.joint, tuned=row.tuned or BOTH, weight=2.0)

    def _trained(self, name: str, made: Any, recipe: recogniser_training.Recipe) -> Trained[Any]:
        return train(made, recipe.training, self.folder / name, progress=lambda _, *at: self.progress(f"training {name}", *at))

    def _recogniser(self, name: str, recipe: recogniser_training.Recipe, begun: attention_asr.State | None) -> Trained[Any]:
        learn, held, _ = self.parts
        return self._trained(name, recogniser_training.task(recipe, self.words, learn, held, self.about, begun), recipe)

    def _clean(self) -> Trained[Any]:
        return self._recogniser(CLEAN, self.budget.clean, None)

    def _mixture(self) -> Trained[Any]:
        return self._recogniser(MIXTURE, self.budget.mixture, self.clean().state)

    def _longer(self) -> Trained[Any]:
        return self._recogniser(LONGER.name, self.budget.joint, self.mixture().state)

    def _front(self, name: str) -> Trained[Any]:
        recipe, (learn, held, _) = self.budget.fronts[name], self.parts
        return self._trained(name, joint_training.task(recipe, self.words, learn, held, None, self.about), recipe.utterances)

    def _joint(self, row: Row) -> Trained[Any]:
        recipe, (learn, held, _) = self.recipe(row), self.parts
        parts = self.parts_of(row._replace(tuned=""))
        made = joint_training.task(recipe, self.words, learn, held, parts, self.about)
        return self._trained(row.name, made, recipe.utterances)


# --- testing -------------------------------------------------------------------------------------------------------------

TOGETHER = 16
"""Utterances per batch of recognition."""


class Heard(NamedTuple):
    """Recognised words and separated speech of utterances."""

    words: list[str]
    speech: list[Float[np.ndarray, " _"]] | None  # None without a separator


def recogniser(row: Row, networks: Networks) -> Callable[[Sequence[Float[np.ndarray, " _"]]], Heard]:
    """Return a function that recognises up to `TOGETHER` utterances with the networks of a row."""
    front, back, statistics = networks.parts_of(row)
    # Also without a separator: beam search is compiled for the recogniser in this config, and so once for all rows.
    config = networks.recipe(row if row.front else row._replace(front=TIME)).config(vocabulary.size_of(networks.words))
    size = round(networks.budget.clean.seconds * RATE)

    def heard(every: Sequence[Float[np.ndarray, " _"]]) -> Heard:
        padded = np.zeros((TOGETHER, size), np.float32)
        samples = np.full(TOGETHER, size)
        for n, one in enumerate(every):
            padded[n, : len(one)], samples[n] = one, len(one)
        given = jnp.asarray(padded), jnp.asarray(samples)
        if row.front:
            found, speech = joint_asr.decode(config, front, back, statistics, *given, WIDTH, networks.most)
            separated = [np.asarray(speech[n, : len(one)]) for n, one in enumerate(every)]
        else:
            found, separated = beam_search.decode(config.back, back, statistics, *given, WIDTH, networks.most), None
        return Heard([_said(networks.words, found.labels[n], found.length[n]) for n in range(len(every))], separated)

    return heard


def _said(words: bytes, labels: Int[Any, " L"], length: Int[Any, ""]) -> str:
    return " ".join(one.word for one in vocabulary.spelled(words, np.asarray(labels)[: int(length)].tolist()))


def at(one: Utterance, ratio: float | None) -> Float[np.ndarray, " N"]:
    """Mix an utterance with its music at a ratio; None for speech alone."""
    if ratio is None:
        return one.speech
    return one.speech + gain_of(one.speech, one.music, ratio) * one.music


def tested(heard: Callable[[Sequence[Any]], Heard], every: Sequence[Utterance], ratio: float | None) -> list[dict[str, Any]]:
    """Recognise utterances at a ratio; return the words, the number of errors, and the SDR of separated speech."""
    mixed = [at(one, ratio) for one in every]
    found, results = heard(mixed), []
    for n, one in enumerate(every):
        errors, words = recognition.word_errors(one.words, found.words[n])
        result = {"utterance": one.number, "genre": one.genre, "group": one.group, "speaker": one.speaker}
        result |= {"truth": one.words, "found": found.words[n], "errors": errors, "words": words}
        if found.speech is not None and ratio is not None:
            truth = np.stack([one.speech, mixed[n] - one.speech])
            score = metrics.bss_eval(truth, np.stack([found.speech[n], mixed[n] - found.speech[n]]))
            result["speech SDR"] = round(min(float(score.sdr[0]), 99.0), 4)
        results.append(result)
    return results


# --- the run -------------------------------------------------------------------------------------------------------------


def run(
    folder: Path,
    recordings: Path,
    budget: str,
    *,
    seed: int = 0,
    speech: Path | None = None,
    progress: Progress = lambda *_: None,
) -> list[dict[str, Any]]:
    """Train what `folder` lacks, test, and append each result to its results.jsonl at once. Return all results.

    With `speech`, a folder with a manifest or LibriSpeech, all of its words are learned; without, the digits of `recordings`.

    Raises:
        UserError: the recordings cannot be used, jiwer or SentencePiece is not installed, or the folder holds results of others,
            of another budget, seed or version.
    """
    own = seeded(BUDGETS[budget] if speech is None else of_all_words(BUDGETS[budget]), seed)
    parts = divide(recordings, own.clean.words, speech)
    every = list(utterances(own.clean, parts.test, genres(recordings), own.each, seed))
    _check_setup(folder, parts, every, own, budget, seed)
    drop_half_a_line(folder / RESULTS)
    done = {key_of(result, KEY) for result in read(folder, KEY)}
    networks = Networks(own, parts, folder, progress)
    for row in ROWS:
        made = cache(lambda row=row: recogniser(row, networks))
        for ratio in CONDITIONS:
            left = [one for one in every if (row.name, ratio, one.number) not in done]
            for first in range(0, len(left), TOGETHER):
                for result in tested(made(), left[first : first + TOGETHER], ratio):
                    append(folder, {"row": row.name, "smr_db": ratio} | result)
                said = "clean" if ratio is None else f"{ratio:g} dB"
                progress(f"{row.name}, {said}", min(first + TOGETHER, len(left)), len(left), float("nan"))
    wanted = {(row.name, ratio, one.number) for row in ROWS for ratio in CONDITIONS for one in every}
    return [result for result in read(folder, KEY) if key_of(result, KEY) in wanted]


def changed(budget: Budget, **changes: Any) -> Budget:
    """Return the budget with changed values in all recipes."""
    fronts = {name: replace(recipe, utterances=replace(recipe.utterances, **changes)) for name, recipe in budget.fronts.items()}
    clean, mixture, joint = (replace(recipe, **changes) for recipe in (budget.clean, budget.mixture, budget.joint))
    return Budget(clean, mixture, fronts, joint, budget.each)


def seeded(budget: Budget, seed: int) -> Budget:
    """Return the budget with a seed for each stage, so that no training repeats the draws of the one that it continues."""
    clean, mixture, fronts, joint = (changed(budget, seed=(4 * seed + n) % 2**32) for n in range(4))
    return Budget(clean.clean, mixture.mixture, fronts.fronts, joint.joint, budget.each)


def of_all_words(budget: Budget) -> Budget:
    """Return the budget for single recordings of any words; those that do not fit into 20 s (`spoken.fitting`) are left out."""
    return changed(budget, only="", joined=1, seconds=20.0, speed=1.1)


def finished(folder: Path, budget: str, seed: int) -> list[dict[str, Any]]:
    """Return the results in a folder.

    Raises:
        UserError: there are none, or they have another budget or seed.
    """
    return reproduction.finished(folder, KEY, "woo2020 --part recognition", setup_of, budget, seed)


def setup_of(folder: Path) -> dict[str, Any]:
    """Return the setup of a folder's results.

    Raises:
        UserError: it is missing or damaged.
    """
    return reproduction.read_setup(folder, lambda s: (s["recordings"].items(), s["recipes"]["joint"], s["words"]))


def _check_setup(
    folder: Path, parts: Division, every: Sequence[Utterance], own: Budget, budget: str, seed: int
) -> None:
    recipes = asdict(own)
    counts = {
        name: {
            "speakers": sorted({one.group for one in part.speech}),
            "recordings": len(spoken.fitting(part.speech, own.clean.seconds, own.clean.speed if name == "learn" else 1.0)),
            "music": sorted({item.group for item in part.music}),
            "minutes of music": round(seconds_of(part.music, RATE) / 60, 1),
            **{name: value for name, value in about_material(part).items() if name in ("sha256", "words")},
        }
        for name, part in parts._asdict().items()
    }
    said = {"utterances": len(every), "words": sum(len(one.words.split()) for one in every)}
    setup = {"version": __version__, "budget": budget, "seed": seed, "recordings": counts, "recipes": recipes} | said
    reproduction.settle(folder, setup)
