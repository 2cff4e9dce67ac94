"""Deep Karaoke on songs: training data, training, and separation of vocals (paper 004, `models.deep_karaoke`).

The mixture of a song is the mean of its vocals and accompaniment, each scaled to a peak of 1, as in the authors' code; its
magnitudes are divided by the largest magnitude of all training songs. Songs to separate are scaled to a similar loudness (`PEAK`)
and divided likewise. Training mixes parts of songs anew, at other ratios (`remixed`), or takes the songs as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayessep import shipped, song_stems
from bayessep.errors import UserError
from bayessep.models import deep_karaoke
from bayessep.models.deep_karaoke import PRESETS, Batch, DeepKaraoke, State
from bayessep.pipeline import masked
from bayessep.preparation import magnitude
from bayessep.separator_training import check_ratio
from bayessep.shipped import Weights
from bayessep.stft import Stft, frame_count, stft
from bayessep.train import Task, Training, fixed, settings_besides, training_of

RATE = 44_100
"""Sample rate of all training data, in Hz."""
STFT = Stft(n_fft=2048, hop=512, pad_end=True)
HOP = 60
"""Frames between the starts of training windows (section II-B)."""


PEAK = 0.7
"""Peak of a song to separate: stems with peaks of 0.5 each do not reach 1 together; in the songs examined, 0.57 to 0.77."""


class Song(NamedTuple):
    """Mono song with known vocals and accompaniment; excerpts of one song share a group, songs of one artist an artist."""

    name: str
    group: str
    vocals: Float[np.ndarray, " N"]
    accompaniment: Float[np.ndarray, " N"]
    artist: str = ""  # empty if unknown

    @property
    def stems(self) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """Vocals and accompaniment as mixed: each scaled to a peak of 1, then halved."""
        return _halved(self.vocals), _halved(self.accompaniment)

    @property
    def mixture(self) -> Float[np.ndarray, " N"]:
        """Sum of the stems."""
        return np.add(*self.stems)


def _halved(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Scale to a peak of 0.5."""
    return x * np.float32(0.5 / max(float(np.abs(x).max()), 1e-9))


def read_songs(folder: str | Path, sample_rate: int = RATE, *, part: str = "") -> list[Song]:
    """Read the songs of a folder, in any layout of `song_stems`; `part` selects a part of the corpus, or all if it is empty.

    Where no song belongs to that part, the songs that belong to none are selected.

    Raises:
        UserError: as `song_stems.listed` and `song_stems.read`; or no song is selected.
    """
    every = song_stems.listed(folder)
    wanted = part if any(song.part == part for song in every) else ""  # else the songs without a part
    listed = [song for song in every if not part or song.part == wanted]
    if not listed:
        raise UserError(f"{folder} has no songs of the part {part}; give a folder that has some.")
    found = ((song, song_stems.read(song, sample_rate)) for song in listed)
    return [Song(song.name, song.group, vocals[0], accompaniment[0], song.artist) for song, (vocals, accompaniment) in found]


@dataclass(frozen=True)
class Recipe:
    """Training recipe: everything a training depends on except the songs; its fields are keys of a file and flags.

    Attributes:
        preset: preset of the network's sizes.
        width: hidden units; 0 takes the preset's.
        precision: as in `DeepKaraoke`.
        rate: learning rate of SGD.
        batch: windows per step.
        varied: draw windows at any place, with vocals and accompaniment at random ratios and often of different songs (`remixed`);
            or draw them from those of the songs as they are, `HOP` frames apart, as the paper does with 50 songs.
        snr_mean, snr_deviation: mean and standard deviation of the vocals-to-accompaniment ratio, of whole stems, in decibels, if
            varied.
        epochs, steps_per_epoch, patience, min_delta, seed, average: `Training`.

    Raises:
        UserError: a name is not known, or a number is out of range.
    """

    preset: str = "small"
    width: int = 0
    precision: str = "float32"
    rate: float = 0.1
    batch: int = 100
    varied: bool = True
    snr_mean: float = 0.0
    snr_deviation: float = 5.0
    epochs: int = 100
    steps_per_epoch: int = 20
    patience: int = 20
    min_delta: float = 0.0
    seed: int = 0
    average: float = 0.0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UserError(f"deep-karaoke has no preset {self.preset!r}; choose {', '.join(PRESETS)}.")
        if self.batch < 1:
            raise UserError(f"batch is {self.batch}, but must be at least 1.")
        check_ratio(self.snr_mean, self.snr_deviation)
        _ = self.config, self.training  # each checks its own numbers

    @property
    def config(self) -> DeepKaraoke:
        """Config of the network."""
        preset = PRESETS[self.preset]
        return replace(preset, width=self.width or preset.width, precision=self.precision, rate=self.rate)

    @property
    def training(self) -> Training:
        """Training schedule."""
        return training_of(self)


def undivided(songs: Sequence[Song], sides: int) -> list[str]:
    """Key by which each song is kept whole in a split into `sides`: its artist, or its group if artists are too few."""
    artists = [song.artist or song.group for song in songs]
    return artists if len(set(artists)) >= sides else [song.group for song in songs]


def divide(songs: Sequence[Song], share: float, seed: int) -> tuple[list[Song], list[Song]]:
    """Split songs into a training set and a validation set of about `share`, with disjoint artists if possible (`undivided`).

    Raises:
        UserError: there is a single song.
    """
    of = undivided(songs, 2)
    groups = sorted(set(of))
    if len(groups) < 2:
        raise UserError("there is only one song for training and validation; give several.")
    held = set(np.random.default_rng(seed).permutation(groups)[: max(1, round(share * len(groups)))].tolist())
    learn, validate = ([s for s, group in zip(songs, of, strict=True) if (group in held) == kept] for kept in (False, True))
    return learn, validate


def add_to(digest: Any, songs: Iterable[Song]) -> None:
    """Update a digest of `hashlib` with the samples of songs."""
    for song in songs:
        digest.update(song.vocals.tobytes())
        digest.update(song.accompaniment.tobytes())


def mask_and_mixture(song: Song) -> tuple[Float[np.ndarray, "T F"], Float[np.ndarray, "T F"]]:
    """Ideal binary mask of the vocals, and unscaled magnitudes of the mixture."""
    vocals, accompaniment = song.stems
    mask = deep_karaoke.ideal_binary_mask(magnitude(vocals, STFT), magnitude(accompaniment, STFT))
    return mask, magnitude(song.mixture, STFT)


def scale_of(songs: Sequence[Song]) -> float:
    """Largest magnitude of all mixtures."""
    return max(float(magnitude(song.mixture, STFT).max()) for song in songs)


SWAPPED = 0.5
"""Probability that vocals are mixed with the accompaniment of any song, at another place."""


class Levels(NamedTuple):
    """Root mean squares of a song's vocals and accompaniment: as they are, and as mixed."""

    alone: tuple[float, float]
    mixed: tuple[float, float]


def levels_of(song: Song) -> Levels:
    """Measure the stems of a song."""

    def level(x: Float[np.ndarray, " N"]) -> float:
        return math.sqrt(np.vdot(x, x) / len(x)) + 1e-9

    alone, mixed = ([level(x) for x in own] for own in ((song.vocals, song.accompaniment), song.stems))
    return Levels((alone[0], alone[1]), (mixed[0], mixed[1]))


def remixed(
    songs: Sequence[Song],
    levels: Sequence[Levels],
    count: int,
    samples: int,
    ratio: Callable[[np.random.Generator], float],
    rng: np.random.Generator,
) -> Float[np.ndarray, "2 B N"]:
    """Draw segments of vocals and of accompaniment to be mixed: of one song or of two (`SWAPPED`), in proportion to their lengths.

    The `ratio` in decibels is that of the levels of whole stems; the level of both together stays as in `Song.stems`.
    """
    lengths = np.array([len(song.vocals) for song in songs])
    made = np.empty((2, count, samples), np.float32)
    for k in range(count):
        sung = played = _place(lengths, samples, rng)
        if rng.random() < SWAPPED:
            played = _place(lengths, samples, rng)
        loudness = math.hypot(levels[sung[0]].mixed[0], levels[played[0]].mixed[1])
        share = 1 / (1 + 10 ** (-ratio(rng) / 10))
        for n, ((song, begin), part) in enumerate(zip((sung, played), (share, 1 - share), strict=True)):
            source = (songs[song].vocals, songs[song].accompaniment)[n]
            gain = np.float32(loudness * math.sqrt(part) / levels[song].alone[n])
            made[n, k] = gain * np.take(source, np.arange(begin, begin + samples), mode="wrap")
    return made


def _place(lengths: Int[np.ndarray, " S"], samples: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a song and where a segment begins in it."""
    song = int(rng.choice(len(lengths), p=lengths / lengths.sum()))
    return song, int(rng.integers(max(1, lengths[song] - samples + 1)))


WINDOW = replace(STFT, center=False, pad_end=False)
"""Frames that lie wholly within the samples of a segment."""


@jax.jit
def batch_of(sources: Float[Array | np.ndarray, "2 B N"], scale: Float[Array | np.ndarray, ""]) -> Batch:
    """Make a batch of segments of vocals and accompaniment, one window of each; `scale` divides the magnitudes."""
    vocals, accompaniment = stft(jnp.asarray(sources), WINDOW)
    target = (jnp.abs(vocals) > jnp.abs(accompaniment)).astype(jnp.float32)
    return Batch(jnp.abs(vocals + accompaniment) / scale, target)


def task(recipe: Recipe, learn: Sequence[Song], held: Sequence[Song], about: Mapping[str, Any] = {}) -> Task[State, Batch]:
    """Task for `train.train`: windows of songs, or of mixtures of them. `about` is compared when a training is resumed.

    Validation has the windows of the songs as they are.
    """
    config = recipe.config
    ratio = partial(np.random.Generator.normal, loc=recipe.snr_mean, scale=recipe.snr_deviation)

    def windows(songs: Sequence[Song]) -> Batch:
        made = [[deep_karaoke.windows_of(part, config.frames, HOP) for part in mask_and_mixture(song)] for song in songs]
        mask, x = (np.concatenate(part) for part in zip(*made, strict=True))
        return Batch(x / scale(), mask)

    # All are computed on demand: a finished training needs none.
    scale, levels = cache(lambda: np.float32(scale_of(learn))), cache(lambda: [levels_of(song) for song in learn])
    every, tested = cache(lambda: windows(learn)), cache(lambda: windows(held))

    def batch(n: int) -> Batch:
        rng = np.random.default_rng([recipe.seed, 2, n])
        if recipe.varied:
            length = WINDOW.n_fft + (config.frames - 1) * WINDOW.hop
            return Batch(*map(np.asarray, batch_of(remixed(learn, levels(), recipe.batch, length, ratio, rng), scale())))
        rows = rng.integers(len(every().magnitude), size=recipe.batch)
        return Batch(every().magnitude[rows], np.asarray(every().target)[rows])

    def validate(state: State) -> dict[str, float]:
        errors, right = [], []
        for begin in range(0, len(tested().magnitude), 100):
            some, target = (np.asarray(part[begin : begin + 100]) for part in tested())
            found = np.asarray(deep_karaoke.predict(config, state.parameters, jnp.asarray(some)))
            errors += (0.5 * ((found - target) ** 2).sum((1, 2))).tolist()
            right += ((found > 0.5) == (target > 0.5)).mean((1, 2)).tolist()
        return {"loss": float(np.mean(errors)), "accuracy": float(np.mean(right))}

    settings = settings_besides(recipe) | {"config": asdict(config)}
    step = fixed(deep_karaoke.step, config)
    return Task(lambda key: deep_karaoke.init(config, key), step, batch, validate, settings | dict(about))


# --- separation ----------------------------------------------------------------------------------------------------------


class Karaoke(NamedTuple):
    """Trained network; implements `neural.Windowed`.

    Attributes:
        config: config of the network.
        parameters: its parameters.
        scale: divisor of the magnitudes (`scale_of`).
        alpha: confidence above which a cell belongs to the vocals (equation 1); None takes the confidence as a soft mask.
    """

    config: DeepKaraoke
    parameters: Any
    scale: float
    alpha: float | None = None

    @property
    def sample_rate(self) -> int:
        """Sample rate of the training data."""
        return RATE

    @property
    def hop(self) -> int:
        """Hop of `STFT`."""
        return STFT.hop

    @property
    def context(self) -> int:
        """Receptive field to each side in samples: the frames of a window less one, plus the length of a frame."""
        return (self.config.frames - 1) * STFT.hop + STFT.n_fft

    def level(self, power: float, peak: float) -> float:
        """Scale that brings the peak of a song to `PEAK`."""
        del power
        return peak / PEAK

    def predict(self, x: Float[np.ndarray, "C N"], length: int, begin: int) -> Float[np.ndarray, "C 2 N"]:
        """Separate a window of a song into vocals and accompaniment; all channels share the mask of their mean."""
        del begin
        spectrum = np.asarray(stft(jnp.asarray(x), STFT))
        heard = np.abs(spectrum.mean(0))[: frame_count(length, STFT)]  # so that averages end where the recording ends
        mean = deep_karaoke.averaged_mask(self.config, self.parameters, heard, self.scale)
        mask = mean if self.alpha is None else deep_karaoke.thresholded(mean, self.alpha).vocal
        mask = np.pad(mask, ((0, spectrum.shape[1] - len(mask)), (0, 0)), mode="edge")  # for frames that overlap its last samples
        vocals = masked(spectrum, mask, STFT, x.shape[1], 1.0)
        return np.stack([vocals, x - vocals], axis=1)


def weights_of(karaoke: Karaoke, **about: object) -> Weights:
    """Pack a network into weights that `karaoke_of` reads, with further settings."""
    settings = {"network": "deep-karaoke", "config": asdict(karaoke.config), "scale": karaoke.scale, "sample_rate": RATE}
    return Weights(shipped.flat(karaoke.parameters), settings | about)


def karaoke_of(weights: Weights) -> Karaoke:
    """Build a network from weights.

    Raises:
        UserError: they are not those of Deep Karaoke.
    """
    settings = weights.settings
    try:
        if settings["network"] != "deep-karaoke":
            raise ValueError(f"they are of {settings['network']}")
        config, scale = shipped.config_of(DeepKaraoke, settings["config"]), float(settings["scale"])
        if not 0 < scale < math.inf:
            raise ValueError(f"a scale of {scale}")
        like = jax.eval_shape(lambda key: deep_karaoke.init(config, key), jax.random.key(0))
        parameters = shipped.numbers(weights, like.parameters)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"these are not the weights of deep-karaoke ({error}); bayessep train deep-karaoke makes some.") from None
    return Karaoke(config, parameters, scale)


def load(path: Path | None, alpha: float | None = None) -> Karaoke:
    """Load the network of a file.

    Raises:
        UserError: no file is given, it cannot be read or holds something else, or alpha is not between 0 and 1.
    """
    deep_karaoke.check_alpha(alpha)
    if path is None:
        raise UserError("no deep-karaoke is installed; give --weights FILE, a file that bayessep train deep-karaoke has written.")
    return shipped.made_of_file(path, karaoke_of)._replace(alpha=alpha)


def mask_of(mixture: Float[np.ndarray, " N"], karaoke: Karaoke) -> Float[np.ndarray, "T F"]:
    """Average probability that each cell (of `STFT`) of a mixture belongs to the vocals; loudness as in `Song.mixture`."""
    return deep_karaoke.averaged_mask(karaoke.config, karaoke.parameters, magnitude(mixture, STFT), karaoke.scale)
