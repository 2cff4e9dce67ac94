"""Supervised baselines for maskers that are trained without isolated voices: Deep Karaoke and Conv-TasNet on songs.

They learn from songs with known voices: the training part of a corpus with stems, or else speech over the music that the maskers
learn from, sung as in the songs that are made for them (`bayessep.singing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from bayessep import data, karaoke, separator_training, singing, song_stems, train, unmatched
from bayessep.audio import resample
from bayessep.detector_data import Item, Items, about_items
from bayessep.karaoke import Karaoke, Song
from bayessep.neural import Separator, Windowed
from bayessep.train import Progress

DEEP, WAVES = "deep-karaoke", "conv-tasnet, trained here"
HELD = 0.2
"""Share of the songs held out for validation."""


@dataclass(frozen=True)
class Recipes:
    """Training recipes of the baselines.

    Attributes:
        windows: recipe of Deep Karaoke.
        waves: recipe of Conv-TasNet, which is trained on new mixtures of voices and music in every step.
    """

    windows: karaoke.Recipe = karaoke.Recipe(varied=False, epochs=50, patience=10)
    waves: separator_training.Recipe = separator_training.Recipe(
        seconds=3.0, held=48, average=0.995, epochs=20, steps_per_epoch=100, falls=True, patience=20
    )


def read(folder: Path, music: list[Item], songs: int, seed: int) -> list[Song]:
    """Read the training songs of a folder, with separate voices: those with stems, if some belong to a training part.

    Otherwise they are speech over its music (of `unmatched`): sung, in `songs` passes as in `unmatched.read_unmatched`, or spoken,
    in one pass, if that is 0.

    Raises:
        UserError: as `unmatched.read_unmatched` and `song_stems.read`.
    """
    if any(song.part == "train" for song in song_stems.listed(folder)):
        return karaoke.read_songs(folder, part="train")
    speech = data.select(data.read_manifest(folder), category="speech")
    made = unmatched.sung(speech, music, max(songs, 1), seed, partial(singing.voices, spoken=not songs))

    def again(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " M"]:
        return resample(x, unmatched.RATE, karaoke.RATE)

    return [Song(song.name, song.group, again(song.voice), again(song.under)) for song in made]


def taught(
    row: str, recipes: Recipes, songs: Sequence[Song], folder: Path, *, seed: int = 0, progress: Progress = lambda *_: None
) -> tuple[Windowed, dict[str, Any]]:
    """Train a network on songs, or resume its training, in `folder`; return it with the epochs, steps and loss of the training.

    Raises:
        Diverged: a loss is not finite.
        UserError: there is a single song.
    """
    learn, held = karaoke.divide(songs, HELD, seed)
    about = {"data": about_items(_items(songs, karaoke.RATE))}
    if row == DEEP:
        recipe = replace(recipes.windows, seed=seed)
        found = train.train(karaoke.task(recipe, learn, held, about), recipe.training, folder, progress=progress)
        network = Karaoke(recipe.config, found.state.parameters, karaoke.scale_of(learn))
    else:
        recipe = replace(recipes.waves, seed=seed)
        heard, kept = (_items(own, separator_training.RATE) for own in (learn, held))
        made = separator_training.task(recipe, heard, kept, about)
        found = train.train(made, recipe.training, folder, progress=progress)
        network = Separator(recipe.network, recipe.config, found.state.parameters, separator_training.RATE)
    return network, {"epochs": found.epochs, "steps": found.epochs * recipe.steps_per_epoch, "loss": found.loss}


def _items(songs: Sequence[Song], rate: int) -> Items:
    """Voices and music at a sample rate of `rate` Hz, as training data of a waveform separator."""

    def own(what: str) -> list[Item]:
        return [Item(song.name, song.group, resample(getattr(song, what), karaoke.RATE, rate)) for song in songs]

    return Items(own("vocals"), own("accompaniment"))
