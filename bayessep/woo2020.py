"""Separation of paper 001 on real recordings: the time domain (Conv-TasNet) against the frequency domain (a BiLSTM mask).

Both networks are trained on the same mixtures from one division of a manifest's recordings, and tested on mixtures of its other
recordings at 5, 0 and -5 dB. The paper trained on 260 hours of speech and 30 of music; here it is less than an hour of each. A
training that continues from the weights of another uses its seed, too, and so begins with the same mixtures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bayessep import __version__, data, estimates, metrics, reproduction
from bayessep.detector_data import Items, about_items, about_parts
from bayessep.detector_release import Division, division
from bayessep.errors import UserError
from bayessep.estimates import Estimator
from bayessep.models.waveform_separation import State
from bayessep.neural import Separator, Stems
from bayessep.reproduction import RESULTS, append, drop_half_a_line, key_of, read
from bayessep.separator_training import RATE, Recipe, mixed, stretch, task
from bayessep.separators import silent
from bayessep.train import Progress, Trained, train

MIXTURE, TIME, FREQUENCY = "mixture", "conv-tasnet", "blstm-mask"
ORACLES = ("ideal-ratio-mask",)
RATIOS = (5.0, 0.0, -5.0)
SUNG = "songs with vocals"
KEY = ("row", "smr_db", "mixture")
"""Fields that identify a result."""


@dataclass(frozen=True)
class Budget:
    """How long networks are trained, and on how much they are tested.

    Attributes:
        recipes: of each network's trainings in turn; each starts from the weights of the one before.
        each: mixtures per test recording of music.
        seconds: length of a mixture.
    """

    recipes: Mapping[str, tuple[Recipe, ...]]
    each: int
    seconds: float = 4.0


FULL = Recipe(network=TIME, seconds=3.0, held=48, average=0.995, epochs=52, steps_per_epoch=100, patience=50)
QUICK = replace(FULL, seconds=1.0, batch=2, held=4, epochs=2, steps_per_epoch=20)
EPOCHS = {TIME: (52, 27), FREQUENCY: (71, 37)}
"""Epochs of each network's two trainings; those of `FREQUENCY` take at least as long, on one core and on two (`make bench`)."""
BUDGETS = {
    "full": Budget(
        {
            name: (replace(FULL, network=name, epochs=first), replace(FULL, network=name, rate=8e-4, epochs=last, falls=True))
            for name, (first, last) in EPOCHS.items()
        },
        each=3,
    ),
    "quick": Budget({name: (replace(QUICK, network=name),) for name in (TIME, FREQUENCY)}, each=1),
}
"""An hour and a half to two hours on one core; and a budget that only shows that it runs."""


# --- networks ------------------------------------------------------------------------------------------------------------


def trained(
    recipes: Sequence[Recipe], parts: Division, folder: Path, progress: Progress = lambda *_: None
) -> list[Trained[State]]:
    """Run the trainings of the recipes one after the other, resuming where `folder` holds a part of them."""
    found: list[Trained[State]] = []
    about = {"data": about_parts(parts)}
    for n, recipe in enumerate(recipes, start=1):
        made = task(recipe, parts.learn, parts.held, about, begun=found[-1].state.parameters if found else None)
        named = f"{recipe.network}, training {n} of {len(recipes)}"
        found.append(train(made, recipe.training, folder / str(n), progress=lambda _, *at, named=named: progress(named, *at)))
    return found


def separator_of(recipes: Sequence[Recipe], found: Sequence[Trained[State]]) -> Separator:
    """Return the network of the last training, ready to be run."""
    return Separator(recipes[-1].network, recipes[-1].config, found[-1].state.parameters, RATE)


# --- mixtures to test with -----------------------------------------------------------------------------------------------


class Mixture(NamedTuple):
    """Speech and music of a mixture, before they are scaled to a ratio."""

    number: int
    speech: Float[np.ndarray, " N"]
    music: Float[np.ndarray, " N"]
    group: str  # of the music
    genre: str


def genre_of(note: str) -> str:
    """Return the genre of music, in a word or two, from its note in a manifest."""
    if note.startswith("song"):
        return SUNG
    parts = [part.strip() for part in note.replace(":", ";").replace(",", ";").split(";")]
    return parts[1] if len(parts) > 1 and parts[0] == "instrumental" else parts[0] or "not said"


def genres(folder: Path) -> dict[str, str]:
    """Return the genre of most music, by duration, of each split group."""
    found: dict[str, dict[str, float]] = {}
    for r in data.read_manifest(folder):
        if r.category in ("music", "songs", "stems", "broadcast"):
            of = found.setdefault(r.split_group, {})
            genre = SUNG if r.category == "stems" else genre_of(r.note) if r.category != "broadcast" else "not said"
            of[genre] = of.get(genre, 0.0) + r.duration
    return {group: max(of, key=lambda name: of[name]) for group, of in found.items()}


def mixtures(items: Items, named: Mapping[str, str], each: int, seconds: float, seed: int) -> Iterator[Mixture]:
    """Yield `each` mixtures for every recording of music: random stretches of it and of any speech.

    Raises:
        UserError: as `check_heard`.
    """
    n = round(seconds * RATE)
    for number, music in enumerate(item for item in items.music for _ in range(each)):
        rng = np.random.default_rng([seed, 5, number])
        genre = named.get(music.group, "not said")
        speech, played = stretch(items.speech, n, rng), stretch([music], n, rng)
        check_heard(music.group, speech, played)
        yield Mixture(number, speech, played, music.group, genre)


def check_heard(group: str, speech: Float[np.ndarray, " N"], music: Float[np.ndarray, " N"]) -> None:
    """Check, before anything is trained, that neither speech nor music is silent, as silence cannot be scored.

    Raises:
        UserError: one of them is silent. `group` is that of the music.
    """
    if not music.any():
        raise UserError(f"music of {group} is silent wherever it was looked at: nothing can be scored with it; leave it out.")
    if not speech.any():
        raise UserError(f"the speech to go with music of {group} is silent: nothing can be scored; leave silent speech out.")


def estimator(row: str, separator: Separator | None, truth: Float[np.ndarray, "2 N"]) -> Estimator:
    """Return the estimator of a row: a network, an ideal mask, or the mixture itself."""
    if separator is not None:
        return estimates.by(separator)
    if row == MIXTURE:
        return lambda x, *_: Stems(x, x)
    return estimates.by_truth(row, {"speech": truth[0], "music": truth[1]})


def scores(truth: Float[np.ndarray, "2 N"], found: Float[np.ndarray, "2 N"]) -> dict[str, float]:
    """Return BSS-Eval (version 3) and SI-SDR of both sources, in decibels; at most 99, where the error is only rounding."""
    bss = metrics.bss_eval(truth, found)
    values: dict[str, float] = {}
    for n, source in enumerate(("speech", "music")):
        alone = float(metrics.si_sdr(truth[n], found[n]))
        values |= {f"{source} SDR": bss.sdr[n], f"{source} SIR": bss.sir[n], f"{source} SAR": bss.sar[n], f"{source} SI-SDR": alone}
    return {name: round(min(float(value), 99.0), 4) for name, value in values.items()}


# --- the run -------------------------------------------------------------------------------------------------------------


def run(
    folder: Path, recordings: Path, budget: str, *, seed: int = 0, progress: Progress = lambda *_: None
) -> list[dict[str, Any]]:
    """Train what `folder` lacks, test, and append each result to its results.jsonl at once. Return all results.

    Raises:
        UserError: the recordings cannot be used, or the folder holds results of others, of another budget, seed or version.
    """
    own, parts = seeded(BUDGETS[budget], seed), division(recordings)
    every = list(mixtures(parts.test, genres(recordings), own.each, own.seconds, seed))
    _check_setup(folder, parts, budget, seed)
    drop_half_a_line(folder / RESULTS)
    done = {key_of(result, KEY) for result in read(folder, KEY)}
    rows = (MIXTURE, *own.recipes, *ORACLES)
    for row in rows:
        # Trained when first needed: a folder with all results needs no training.
        network = cache(lambda row=row: separator_of(own.recipes[row], trained(own.recipes[row], parts, folder / row, progress)))
        for ratio in RATIOS:
            left = [one for one in every if (row, ratio, one.number) not in done]
            for n, one in enumerate(left):
                result = tested(row, network() if row in own.recipes else None, one, ratio)
                append(folder, {"row": row, "smr_db": ratio} | result)
                progress(f"{row}, {ratio:g} dB", n + 1, len(left), float("nan"))
    wanted = {(row, ratio, one.number) for row in rows for ratio in RATIOS for one in every}
    return [result for result in read(folder, KEY) if key_of(result, KEY) in wanted]


def seeded(budget: Budget, seed: int) -> Budget:
    """Return the budget with one seed for all trainings."""
    return replace(budget, recipes={name: tuple(replace(r, seed=seed) for r in own) for name, own in budget.recipes.items()})


def finished(folder: Path, budget: str, seed: int) -> list[dict[str, Any]]:
    """Return the results in a folder.

    Raises:
        UserError: there are none, or they have another budget or seed.
    """
    return reproduction.finished(folder, KEY, "woo2020", setup_of, budget, seed)


def setup_of(folder: Path) -> dict[str, Any]:
    """Return the setup of a folder's results.

    Raises:
        UserError: it is missing or damaged.
    """
    return reproduction.read_setup(folder, lambda s: (s["seconds"]["learn speech"], s["recipes"].items()))


def tested(row: str, separator: Separator | None, one: Mixture, ratio: float) -> dict[str, Any]:
    """Run a row on one mixture and score it."""
    truth = mixed(one.speech, one.music, ratio)
    started = time.perf_counter()
    found = np.concatenate(estimator(row, separator, truth)(truth.sum(0, keepdims=True), RATE, silent))
    spent = time.perf_counter() - started
    return {"mixture": one.number, "genre": one.genre, "group": one.group, **scores(truth, found), "seconds": spent}


def _check_setup(folder: Path, parts: Division, budget: str, seed: int) -> None:
    lasting = {name: round(value, 1) for name, value in parts.seconds.items()}
    recipes = {name: [asdict(recipe) for recipe in own] for name, own in BUDGETS[budget].recipes.items()}  # the seed is stored once
    setup = {"version": __version__, "budget": budget, "seed": seed, "seconds": lasting, "recipes": recipes}
    setup |= {"each": BUDGETS[budget].each, "length": BUDGETS[budget].seconds}
    setup |= {"tested with": {what: sorted({item.group for item in own}) for what, own in parts.test._asdict().items()}}
    setup |= {"sha256 of recordings": {part: about_items(getattr(parts, part))["sha256"] for part in ("learn", "held", "test")}}
    reproduction.settle(folder, setup)
