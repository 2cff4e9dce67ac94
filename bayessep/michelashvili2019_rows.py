"""Rows of paper 002's experiment: how each is trained, and how it separates songs (`bayessep.michelashvili2019`).

Networks trained without voices are of one size and learn from the same mixtures and music: the masker, with all or some of its
losses, from all of their images, the others from at most as many as the budget allows. GLO masking and NMF also learn voices
from the test mixtures, as they have to. Of these rows, only the masker's use an exponential moving average of the weights. Deep
Karaoke and a Conv-TasNet are trained on voices (`bayessep.taught_songs`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bayessep import estimates, masked_songs, neural, shipped, taught_songs, train, unmatched
from bayessep.detector_data import about_items
from bayessep.karaoke import Song as Voiced
from bayessep.masked_songs import CODE_POWER, Masker
from bayessep.models import convolutive_nmf, egg_separation, latent_masking
from bayessep.models.egg_separation import State as Egg
from bayessep.models.idempotent_masker import LOSSES, IdempotentMasker, Parts
from bayessep.models.latent_masking import LatentMasking
from bayessep.models.latent_masking import State as Made
from bayessep.pipeline import masked
from bayessep.preparation import magnitude
from bayessep.separators import silent
from bayessep.song_stems import Listed
from bayessep.stft import stft
from bayessep.taught_songs import DEEP, WAVES, Recipes
from bayessep.train import Progress, Training
from bayessep.unmatched import POWER, RATE, Recipe, Unmatched, clips_of, compressed, image_of, stft_of

MIXTURE, QUARTER, IDEAL = "mixture", "a quarter of the mixture", "ideal-ratio-mask"
NMF, GAN, GLO = "NMF", "masking GAN", "GLO masking"
EGGS, EGGS_TUNED, ALL = "NES", "NES from the masker", "masker"
BLUNTER = "masker, masks as they are"
SHARPER = f"masker, mask to the power {CODE_POWER:g}"
SMOOTHER = f"masker, mask to the power {CODE_POWER:g}, smoothed"
ABLATED = (*(f"without {name}" for name in ("R1", "R2", "R3", "R4", "GAN_A", "GAN_C")), "without GAN_A and GAN_C")
SHIPPED = "conv-tasnet"
"""A shipped separator, trained on speech as speech and on songs, vocals included, as music."""
TAUGHT = (DEEP, WAVES)
"""Networks that are trained on voices here."""
OFF = {ALL: (), GAN: tuple(name for name in LOSSES if name != "GAN_C")} | {
    row: tuple(row.removeprefix("without ").split(" and ")) for row in ABLATED
}
"""Rows that are trainings of the masker, and the losses that are switched off in each."""
AT_WORK: dict[str, dict[str, Any]] = {
    BLUNTER: {"power": 1.0}, SHARPER: {"power": CODE_POWER}, SMOOTHER: {"power": CODE_POWER, "smoothing": True},
}  # fmt: skip
"""Rows that run the masker with its masks raised to other powers, or smoothed; the authors' code does this only at inference."""
ROWS = (MIXTURE, QUARTER, IDEAL, NMF, ALL, *AT_WORK, GAN, EGGS, EGGS_TUNED, GLO, *ABLATED, SHIPPED, *TAUGHT)


@dataclass(frozen=True)
class Budget:
    """How long networks are trained, and how much is tested.

    Attributes:
        recipe: of the masker; the other networks without voices use its preset and seed, neural egg separation four times its
            batch.
        rounds, round_steps: of neural egg separation.
        glo_steps: of each of the two networks of GLO masking.
        most: images of a kind that these two methods learn from, at most, as all are in memory; NMF learns from a tenth as many.
        kept, free, sweeps: templates of the accompaniment and of the voice, and updates (NMF).
        songs: test songs, at most; 0 for all.
        ablated: the rows of `ABLATED` to run.
        taught: recipes of the networks that are trained on voices.
    """

    recipe: Recipe
    rounds: int = 5
    round_steps: int = 400
    glo_steps: int = 2000
    most: int = 2000
    kept: int = 60
    free: int = 20
    sweeps: int = 100
    songs: int = 0
    ablated: tuple[str, ...] = ABLATED
    taught: Recipes = Recipes()

    @property
    def rows(self) -> list[str]:
        """Rows of `ROWS` to run."""
        return [row for row in ROWS if row not in ABLATED or row in self.ablated]


FULL = Recipes()
BUDGETS = {
    "full": Budget(Recipe(songs=2, epochs=5, steps_per_epoch=500, average=0.999)),
    "quick": Budget(
        Recipe(listening=200, epochs=2, steps_per_epoch=60),
        *(2, 60, 100, 200, 20, 10, 30),
        songs=3,
        ablated=ABLATED[-1:],
        taught=Recipes(
            replace(FULL.windows, epochs=5), replace(FULL.waves, seconds=1.0, batch=2, held=4, epochs=2, steps_per_epoch=20)
        ),
    ),
}


class Song(NamedTuple):
    """A test song, at `RATE`."""

    listed: Listed
    truth: Float[np.ndarray, "2 N"]  # vocals, accompaniment

    @property
    def mixture(self) -> Float[np.ndarray, " N"]:
        """Sum of vocals and accompaniment."""
        return self.truth.sum(0)


Takes = Callable[[Song], Float[np.ndarray, "2 N"]]
"""Function that separates a song into vocals and accompaniment."""


class Work:
    """Trains the separators of rows; each training of the masker is run once, though several rows use it."""

    def __init__(
        self,
        folder: Path,
        sounds: Unmatched,
        songs: list[Callable[[], Song]],
        budget: Budget,
        progress: Progress,
        voiced: Callable[[], list[Voiced]] = list,
    ) -> None:
        """Take `voiced`, which returns training songs with known voices, for `TAUGHT` alone; by default there are none."""
        self._voiced = cache(voiced)
        self._folder, self._sounds, self._songs, self._budget, self._progress = folder / "training", sounds, songs, budget, progress
        self._config: IdempotentMasker = budget.recipe.config
        unmatched.check(sounds, self._config)
        self._masker = cache(self._train)
        self._images = cache(self._some_images)
        self._about = cache(lambda: {"data": about_items(sounds)})  # so that no training is resumed with other recordings

    def row(self, row: str) -> tuple[Takes, dict[str, Any]]:
        """Return the separator of a row, and what is recorded of its training.

        Raises:
            Diverged: a loss is no longer a number.
        """
        if row == MIXTURE:
            return lambda song: np.stack([song.mixture] * 2), {}
        if row == QUARTER:  # separates nothing: shows what SDR alone is worth where music is louder than vocals
            return lambda song: np.stack([0.25 * song.mixture, 0.75 * song.mixture]), {}
        if row == IDEAL:
            return self._ideal, {}
        if row == SHIPPED:
            return by(neural.separator_of(shipped.read(row))), {}
        if row in TAUGHT:
            budget, place = self._budget, self._place(row)
            network, learned = taught_songs.taught(
                row, budget.taught, self._voiced(), place, seed=budget.recipe.seed, progress=self._named(row)
            )
            return by(network), learned
        if row == NMF:
            return self._nmf(), {}
        if row == GLO:
            return self._glo()
        if row in (EGGS, EGGS_TUNED):
            return self._eggs(row)
        parts, learned = self._masker(ALL if row in AT_WORK else row)
        return by(Masker(self._config, parts, **AT_WORK.get(row, {}))), learned

    def masker(self) -> Parts:
        """Return the generator trained with all losses."""
        return self._masker(ALL)[0]

    def _ideal(self, song: Song) -> Float[np.ndarray, "2 N"]:
        truth = {"speech": song.truth[0], "music": song.truth[1]}
        return np.concatenate(estimates.by_truth(IDEAL, truth)(song.mixture[None], RATE, silent))

    def _place(self, row: str) -> Path:
        return self._folder / row.replace(",", "").replace(" ", "-")

    def _named(self, row: str) -> Progress:
        return lambda _, *counts: self._progress(row, *counts)

    def _train(self, row: str) -> tuple[Parts, dict[str, Any]]:
        recipe = replace(self._budget.recipe, without=",".join(OFF[row]))
        # Whichever losses are left out, all trainings start from the same discriminators.
        place, first = self._place(row), self._place("listening")
        found = unmatched.learn(recipe, self._sounds, place, self._about(), first=first, progress=self._named(row))
        last = found.history[-1]
        told = {name: round(last[f"validation/{name}"], 5) for name in ("changed_twice", "changed_music", "taken")}
        return found.state.generator, told

    def _some_images(self, kind: int) -> Float[np.ndarray, "n T F"]:
        """Return randomly chosen images of the mixtures (0) or of the music (1), at most `Budget.most`."""
        clips = clips_of(self._sounds[kind], self._config)
        rng = np.random.default_rng([self._budget.recipe.seed, 6, kind])
        chosen = rng.permutation(len(clips))[: self._budget.most]
        return np.stack([image_of(self._sounds[kind], clips[k], self._config) for k in chosen])

    def _eggs(self, row: str) -> tuple[Takes, dict[str, Any]]:
        """Run the rounds of neural egg separation, starting from the masker's estimates or from a tenth of each mixture."""
        mixtures, music, budget, config = self._images(0), self._images(1), self._budget, self._config
        if row == EGGS_TUNED:
            generator = self.masker()
            guesses = egg_separation.guesses(config, generator, mixtures)
        else:
            generator, guesses = None, np.asarray(egg_separation.first_guesses(jnp.asarray(mixtures), POWER))
        for n in range(budget.rounds):
            made = self._round(row, n, guesses, music, generator)
            training = Training(epochs=1, steps_per_epoch=budget.round_steps, patience=1, seed=budget.recipe.seed)
            found = train.train(made, training, self._place(row) / str(n + 1), progress=self._named(f"{row}, round {n + 1}"))
            generator = found.state.generator
            guesses = egg_separation.guesses(config, generator, mixtures)
        assert generator is not None  # there is at least one round
        return by(Masker(config, generator)), {}

    def _round(
        self, row: str, n: int, guesses: Float[np.ndarray, "n T F"], music: Float[np.ndarray, "m T F"], begun: Parts | None
    ) -> train.Task[Egg, egg_separation.Batch]:
        config, recipe = self._config, self._budget.recipe
        held = max(1, len(music) // 20)

        def drawn(rng: np.random.Generator, count: int, least: int, most: int) -> egg_separation.Batch:
            return egg_separation.Batch(guesses[rng.integers(len(guesses), size=count)], music[rng.integers(least, most, count)])

        def batch(k: int) -> egg_separation.Batch:
            return drawn(np.random.default_rng([recipe.seed, 7, n, k]), 4 * recipe.batch, held, max(held + 1, len(music)))

        def validate(state: Egg) -> dict[str, float]:
            own = drawn(np.random.default_rng([recipe.seed, 8]), 16, 0, held)
            return {"loss": float(egg_separation.measure(config, state.generator, own))}

        def init(key: Key[Array, ""]) -> Egg:
            if begun is None:
                return egg_separation.init(config, key)
            return egg_separation.again(jax.tree.map(jnp.array, begun))

        about = self._about() | {"row": row, "round": n, "config": asdict(config), "images": [len(guesses), len(music)]}
        return train.Task(init, train.fixed(egg_separation.step, config), batch, validate, about, latest=True)

    def _nmf(self) -> Takes:
        """Fit templates to the training music; in each song, additional free templates model the voice."""
        budget, settings = self._budget, stft_of(self._config)
        clips = clips_of(self._sounds.music, self._config)
        rng, length = np.random.default_rng([budget.recipe.seed, 9]), (self._config.frames - 1) * self._config.hop
        chosen = [clips[k] for k in rng.permutation(len(clips))[: max(1, budget.most // 10)]]
        heard = [magnitude(self._sounds.music[c.item].samples[c.begin : c.begin + length], settings) for c in chosen]
        key = jax.random.key(budget.recipe.seed)
        kept = convolutive_nmf.fit(key, np.concatenate(heard), budget.kept, budget.sweeps)

        def takes(song: Song) -> Float[np.ndarray, "2 N"]:
            x = jnp.asarray(magnitude(song.mixture, settings))
            voice = convolutive_nmf.free_shares(jax.random.fold_in(key, 1), x, kept, budget.free, budget.sweeps)
            return _taken(song, 1 - np.asarray(voice), self._config)

        return takes

    def _glo(self) -> tuple[Takes, dict[str, Any]]:
        """Train a generator of music, then one of the voices of all test songs, with latent vectors of both."""
        c = self._config
        config = LatentMasking(bins=c.bins, frames=c.frames, channels=c.channels)
        where: dict[str, tuple[int, list[int], int]] = {}  # per song: frames, starts of its blocks, first block
        blocks: list[np.ndarray] = []
        for song in (made() for made in self._songs):
            heard = _image_of(song, c)
            begins = masked_songs.blocks_of(len(heard), c.frames)
            where[song.listed.name] = len(heard), begins, len(blocks)
            blocks += [heard[k : k + c.frames] for k in begins]
        alone = self._made(config, self._images(1), GLO, None)
        mixed = self._made(config, np.stack(blocks), f"{GLO}, songs", alone.learned.own.maker)

        def takes(song: Song) -> Float[np.ndarray, "2 N"]:
            length, begins, first = where[song.listed.name]
            rows = jnp.arange(first, first + len(begins))
            share = np.asarray(latent_masking.shares(config, alone.learned.own.maker, mixed, rows))
            # The model adds compressed magnitudes, so its shares are of these, too.
            return _taken(song, masked_songs.averaged(share, begins, length) ** np.float32(1 / POWER), c)

        return takes, {}

    def _made(self, config: LatentMasking, images: Float[np.ndarray, "n T F"], name: str, kept: Any) -> Made:
        seed, size = self._budget.recipe.seed, 8

        def batch(k: int) -> latent_masking.Batch:
            rows = np.random.default_rng([seed, 10, k]).integers(len(images), size=size).astype(np.int32)
            return latent_masking.Batch(rows, images[rows])

        def step(state: Made, batch: latent_masking.Batch, key: Key[Array, ""]) -> Any:
            return latent_masking.step(config, state, batch, key, kept)

        def init(key: Key[Array, ""]) -> Made:
            return latent_masking.init(config, key, len(images), kept is not None)

        about = self._about() | {"row": name, "config": asdict(config), "images": len(images)}
        # There is nothing to validate: each generated image has its own latent vector.
        made = train.Task(init, step, batch, lambda _: {"loss": 0.0}, about, latest=True)
        training = Training(epochs=1, steps_per_epoch=self._budget.glo_steps, patience=1, seed=seed)
        return train.train(made, training, self._place(name), progress=self._named(name)).state


def by(network: neural.Windowed) -> Takes:
    """Separate songs by a network."""
    return lambda song: np.concatenate(neural.separate(song.mixture[None], RATE, network))


def _image_of(song: Song, config: IdempotentMasker) -> Float[np.ndarray, "T F"]:
    """Return the compressed image of a whole song, scaled as at inference; songs shorter than an image are padded with silence."""
    heard = magnitude(song.mixture, stft_of(config))[:, : config.bins]
    padded = np.pad(heard, ((0, max(0, config.frames - len(heard))), (0, 0)))
    return compressed(padded, heard.min(), heard.max())


def _taken(song: Song, mask: Float[np.ndarray, "T F"], config: IdempotentMasker) -> Float[np.ndarray, "2 N"]:
    """Return vocals and accompaniment, given the mask of the accompaniment."""
    settings = stft_of(config)
    spectrum = np.asarray(stft(jnp.asarray(song.mixture[None]), settings))
    accompaniment = masked(spectrum, mask[: spectrum.shape[1]], settings, len(song.mixture), 1.0)[0]
    return np.stack([song.mixture - accompaniment, accompaniment])
