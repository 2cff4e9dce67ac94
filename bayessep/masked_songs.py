"""Separate vocals from songs of any length with the idempotent masker (paper 002, `models.idempotent_masker`).

As in the authors' code, each channel is processed independently; magnitudes are min-max normalised over the whole song, in a first
pass; blocks have the length of the training images, and the last one is aligned with the end of the song, where its mask is
averaged with that of the block it overlaps. The mask, raised to a power, is applied to the mixture's magnitudes and gives the
accompaniment, with the mixture's phases; the vocals are the remainder. The positions of blocks in the song do not depend on the
windows it is read in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bayessep import shipped
from bayessep.errors import UserError
from bayessep.models import idempotent_masker
from bayessep.models.idempotent_masker import IdempotentMasker, Parts, Weights
from bayessep.shipped import Weights as File
from bayessep.stft import frame_count, istft, stft, stream_finish, stream_init, stream_push
from bayessep.unmatched import POWER, RATE, compressed, stft_of

NAME = "idempotent-masker"
CODE_POWER = 9.0
"""Exponent to which the authors' code raises masks, at test time only; the poster does not mention it."""


class Extent(NamedTuple):
    """Minimum and maximum magnitude of each channel of a song."""

    least: Float[np.ndarray, " C"]
    greatest: Float[np.ndarray, " C"]


class Masker(NamedTuple):
    """Trained network; implements `neural.Windowed` once it is fitted to a song (`neural.Fitting`).

    Attributes:
        config: config of the network.
        parts: its variables.
        power: exponent of the masks; the greater, the less remains in the accompaniment. Masks are learned on magnitudes to the
            power 0.3; raised to 1 / 0.3, they are masks of linear magnitudes.
        smoothing: smooth masks as the authors' code does (`smoothed`).
        own: normalise each block by its own statistics (`idempotent_masker.predict`).
        extent: range of magnitudes of the song that it is fitted to.
    """

    config: IdempotentMasker
    parts: Any
    power: float = 1 / POWER
    smoothing: bool = False
    own: bool = False
    extent: Extent | None = None

    @property
    def sample_rate(self) -> int:
        """Sample rate of the training data."""
        return RATE

    @property
    def hop(self) -> int:
        """Hop of the frames, in samples."""
        return self.config.hop

    @property
    def context(self) -> int:
        """Receptive field to each side in samples: that of a cell is its block, to which the length of a frame is added."""
        return (self.config.frames + 1) * self.config.hop + 2 * self.config.bins

    def level(self, power: float, peak: float) -> float:
        """No scaling: magnitudes are normalised by the song's own range."""
        del power, peak
        return 1.0

    def fitted(self, pieces: Iterable[Float[np.ndarray, "_ _"]]) -> Masker:
        """Return the masker fitted to a song, given all its samples at `RATE`.

        Raises:
            UserError: there are no samples.
        """
        settings, state, found = stft_of(self.config), None, []

        def extent(spectrum: Any) -> None:
            if spectrum.shape[-2]:
                heard = np.abs(np.asarray(spectrum))[..., : self.config.bins]
                found.append((heard.min((1, 2)), heard.max((1, 2))))

        for piece in pieces:
            state = state or stream_init(settings, piece.shape[:1])
            state, spectrum = stream_push(state, piece, settings)
            extent(spectrum)
        if state is None:
            raise UserError("the recording is empty: there is nothing to separate.")
        extent(stream_finish(state, settings))
        least, greatest = (np.stack(of) for of in zip(*found, strict=True))
        return self._replace(extent=Extent(least.min(0), greatest.max(0)))

    def predict(self, x: Float[np.ndarray, "C N"], length: int, begin: int) -> Float[np.ndarray, "C 2 N"]:
        """Separate a window that starts at sample `begin` of the song into vocals and accompaniment; see `Windowed`.

        Raises:
            UserError: the masker is not fitted to a song.
        """
        if self.extent is None:
            raise UserError("this masker is not fitted to a song; call fitted, with all of its samples.")
        settings = stft_of(self.config)
        spectrum = np.asarray(stft(jnp.asarray(x), settings))
        heard = np.abs(spectrum)[:, : frame_count(length, settings), : self.config.bins]
        masks = np.zeros(spectrum.shape, np.float32)
        for n, (channel, *extent) in enumerate(zip(heard, *self.extent, strict=True)):
            mask = self.mask_of(compressed(channel, *extent), begin // self.config.hop)
            # Extend to the Nyquist bin and to frames that overlap the last samples.
            masks[n] = np.pad(mask, ((0, spectrum.shape[1] - len(mask)), (0, 1)), mode="edge")
        accompaniment = np.asarray(istft(jnp.asarray(spectrum * masks), settings, x.shape[1]))
        return np.stack([x - accompaniment, accompaniment], axis=1)

    def mask_of(self, images: Float[np.ndarray, "T F"], first: int = 0) -> Float[np.ndarray, "T F"]:
        """Mask for consecutive frames of a song, which start at its frame `first` and have values from -1 to 1."""
        size = self.config.frames
        frames = np.pad(images, ((0, max(0, size - len(images))), (0, 0)), constant_values=-1)
        begins = blocks_of(len(frames), size, first)
        found = (self._said(frames[None, k : k + size]) for k in begins)
        mask = averaged((np.asarray(one)[0] for one in found), begins, len(frames))[: len(images)] ** np.float32(self.power)
        return smoothed(mask) if self.smoothing else mask

    def _said(self, image: Float[np.ndarray, "1 T F"]) -> Any:
        return idempotent_masker.predict(self.config, self.parts, jnp.asarray(image), self.own)


def blocks_of(frames: int, size: int, first: int = 0) -> list[int]:
    """Starts of blocks that cover all frames, of which `first` is the first one's number in the song.

    Blocks lie at multiples of `size` in the song; others at the beginning and the end cover what those leave out.
    """
    whole = list(range(-first % size, frames - size + 1, size))
    begin = [0] if not whole or whole[0] else []
    end = [frames - size] if not whole or whole[-1] + size < frames else []
    return sorted({*begin, *whole, *end})


def averaged(blocks: Iterable[Float[np.ndarray, "L F"]], begins: Iterable[int], frames: int) -> Float[np.ndarray, "T F"]:
    """Join blocks with the given starts, which cover all frames; overlaps are averaged."""
    found = list(blocks)
    total, count = np.zeros((frames, found[0].shape[1]), np.float32), np.zeros((frames, 1), np.float32)
    for one, k in zip(found, begins, strict=True):
        total[k : k + len(one)] += one
        count[k : k + len(one)] += 1
    return total / count


def smoothed(mask: Float[np.ndarray, "T F"], colour: float | int = 10.0, space: float | int = 10.0) -> Float[np.ndarray, "T F"]:
    """Bilateral filter of diameter 3: mean of each cell and its four neighbours, weighted by distance and similarity.

    With the standard deviations of the authors' code, far above any difference between masks, it is nearly the plain mean.
    """
    around = np.pad(mask, 1, mode="reflect")
    near = np.float32(math.exp(-0.5 / space**2))
    total, weight = mask.copy(), np.ones_like(mask)
    for other in (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]):
        alike = near * np.exp(-0.5 * ((other - mask) / np.float32(colour)) ** 2)
        total, weight = total + alike * other, weight + alike
    return total / weight


# --- weights in files ----------------------------------------------------------------------------------------------------


def weights_of(masker: Masker, **about: object) -> File:
    """Pack a masker into weights that `masker_of` reads, with further settings."""
    settings = {"network": NAME, "config": asdict(masker.config), "sample_rate": RATE, "power": masker.power, "own": masker.own}
    return File(shipped.flat(masker.parts), settings | about)


def masker_of(file: File) -> Masker:
    """Build a masker from weights.

    Raises:
        UserError: they are not those of an idempotent masker.
    """
    settings = file.settings
    try:
        if settings["network"] != NAME:
            raise ValueError(f"they are of {settings['network']}")
        sizes: dict[str, Any] = dict(settings["config"])
        config = shipped.config_of(IdempotentMasker, sizes | {"weights": Weights(**sizes["weights"])})
        if settings["sample_rate"] != RATE:
            raise ValueError(f"a sample rate of {settings['sample_rate']}")
        if not 0 < (power := float(settings.get("power", 1 / POWER))) < math.inf:
            raise ValueError(f"a power of masks of {power}")
        like: Parts = jax.eval_shape(lambda key: idempotent_masker.begin(config, key), jax.random.key(0))
        return Masker(config, shipped.numbers(file, like), power, own=settings.get("own") is True)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"these are not the weights of {NAME} ({error}); bayessep train {NAME} makes some.") from None


def check_power(power: float | None) -> None:
    """Check the exponent of masks; None stands for the default.

    Raises:
        UserError: it is not above 0, or not finite.
    """
    if power is not None and not 0 < power < math.inf:
        raise UserError(f"the power of masks is {power}, but must be above 0, and finite.")


def load(path: Path | None, power: float | None = None, smoothing: bool = False) -> Masker:
    """Load the masker of a file, or the one that ships; without a power, it has its own.

    Raises:
        UserError: none ships, the file cannot be read or holds something else, or the power is out of range.
    """
    check_power(power)
    if path is not None:
        found = shipped.made_of_file(path, masker_of)
    elif NAME in shipped.names():
        found = masker_of(shipped.read(NAME))
    else:
        raise UserError(f"no {NAME} is installed; give --weights FILE, a file that bayessep train {NAME} has written.")
    return found._replace(power=power or found.power, smoothing=smoothing)
