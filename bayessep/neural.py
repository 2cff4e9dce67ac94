"""Run trained waveform separators on recordings of any length, sample rate and number of channels, in bounded memory.

A recording is resampled to the network's sample rate, scaled to a mean square of 1, and processed in windows of one length, each
channel independently. At both ends of a window, its `context` is discarded, and neighbours are crossfaded over a quarter of a
second. With the norm ``frame``, no output sample depends on more than the context, so the result equals the network's output on
the whole recording, to rounding. The norm ``global`` is computed per window, the memory of `blstm_mask` is cut off after a second,
and the norm ``cumulative`` restarts with each window; causal networks run as streams, and are exact. Separators of `karaoke` and
`convolutive`, which mask a spectrogram, are as exact, but for the last frame of a recording: there they are to 40 dB.

A network trained without `consistent`, such as the preset ``paper``, leaves the scale of its sources open: least-squares gains fit
them to the mixture of each window, or of all of a stream so far. Where they differ from those of the whole, so does the result.
The music is the recording minus the speech. The network does not see what lies above half of its sample rate; that band is divided
between speech and music like the high frequencies below it, moment by moment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Float, PyTree

from bayessep import audio, shipped
from bayessep.errors import UserError
from bayessep.models import blstm_mask, conv_tasnet
from bayessep.models.blstm_mask import BlstmMask
from bayessep.models.conv_tasnet import ConvTasNet
from bayessep.models.waveform_separation import SILENT, consistent
from bayessep.resampling import resampled
from bayessep.separators import Progress, silent
from bayessep.shipped import Weights
from bayessep.streaming import Held
from bayessep.waveforms import check_mixture, not_finite

NETWORKS: dict[str, Any] = {"conv-tasnet": (conv_tasnet, ConvTasNet), "blstm-mask": (blstm_mask, BlstmMask)}
"""Module and config class of each network, by the name of the method."""

WINDOWS = (4.0, 16.0)
"""Window lengths in seconds: the shortest that holds the whole recording, or else the longest, repeatedly."""
FADE = 0.25
"""Crossfade between windows, in seconds."""

Samples = Float[np.ndarray, "_ _"]
"""Multichannel audio of shape (channels, samples)."""


@runtime_checkable
class Windowed(Protocol):
    """Interface of separators that process each window of a recording independently."""

    @property
    def sample_rate(self) -> int:
        """Sample rate of the windows, in Hz."""
        ...

    @property
    def hop(self) -> int:
        """Hop of the frames in samples; windows begin at multiples of it."""
        ...

    @property
    def context(self) -> int:
        """Receptive field to each side, in samples."""
        ...

    def level(self, power: float, peak: float) -> float:
        """Scale by which a recording is divided, given its mean square without silence and offset, and its peak."""
        ...

    def predict(self, x: Samples, length: int, begin: int) -> Float[np.ndarray, "_ 2 _"]:
        """Separate every channel of a window into speech and music, which sum to the input.

        The first `length` samples of the window are the recording's samples from number `begin` on; the rest is zero padding.
        """
        ...


@runtime_checkable
class Fitting(Protocol):
    """Interface of separators that need a first pass over the whole recording."""

    def fitted(self, pieces: Iterable[Samples]) -> Windowed:
        """Return a separator fitted to a recording, given all its samples at the separator's rate, divided by `Windowed.level`."""
        ...


class Separator(NamedTuple):
    """Trained separation network; implements `Windowed`."""

    network: str  # a key of `NETWORKS`
    config: Any
    parameters: PyTree
    sample_rate: int
    both_signs: bool = False  # average the outputs for a window and for its negative; streams do not

    @property
    def hop(self) -> int:
        """Hop of the network's frames, in samples."""
        return self.config.hop

    @property
    def context(self) -> int:
        """Receptive field of the network to each side, in samples."""
        return self.config.context

    def level(self, power: float, peak: float) -> float:
        """Root mean square: in training, mixtures have a mean square of 1."""
        del peak
        return power**0.5

    def predict(self, x: Samples, length: int, begin: int) -> Float[np.ndarray, "_ 2 _"]:
        """Separate each channel independently; the position of the window makes no difference."""
        del begin
        return np.stack([self._channel(channel, length) for channel in x])

    def _channel(self, x: Float[np.ndarray, " N"], length: int) -> Float[np.ndarray, "2 N"]:
        found = self._said(x, length)
        if self.both_signs:
            found = (found - self._said(-x, length)) / np.float32(2)
        return found if self.sums else to_scale(x, found, gains_of(products(x[:length], found[:, :length])))

    def _said(self, x: Float[np.ndarray, " N"], length: int) -> Float[np.ndarray, "2 N"]:
        module = NETWORKS[self.network][0]
        return np.asarray(module.predict(self.config, self.parameters, jnp.asarray(x)[None], jnp.asarray(length)))[0]

    @property
    def sums(self) -> bool:
        """Whether the network's sources sum to the mixture; otherwise the loss left their scale and sign open."""
        return self.network != "conv-tasnet" or self.config.consistent


def products(mixture: Float[np.ndarray, " n"], sources: Float[np.ndarray, "2 n"]) -> Float[np.ndarray, "2 3"]:
    """Inner products of the sources with each other and with the mixture: all that `gains_of` needs of the past."""
    return sources.astype(np.float64) @ np.concatenate([sources, mixture[None]]).astype(np.float64).T


def gains_of(known: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 1"]:
    """Return the least-squares gains of the sources that fit the mixture, given the inner products of `products`."""
    gram = known[:, :2] + np.eye(2) * (1e-6 * np.trace(known[:, :2]) + 1e-20)
    return np.linalg.solve(gram, known[:, 2])[:, None].astype(np.float32)


def to_scale(
    mixture: Float[np.ndarray, " n"], sources: Float[np.ndarray, "2 n"], gains: Float[np.ndarray, "2 _"]
) -> Float[np.ndarray, "2 n"]:
    """Apply gains to the sources, and add half of the residual to each."""
    return np.asarray(consistent(jnp.asarray(mixture), jnp.asarray(gains * sources)))


def weights_of(separator: Separator, **about: object) -> Weights:
    """Pack a separator into weights that `separator_of` reads, with further settings."""
    settings = {"network": separator.network, "config": dataclasses.asdict(separator.config), "sample_rate": separator.sample_rate}
    settings |= {"both_signs": separator.both_signs}
    return Weights(shipped.flat(separator.parameters), settings | about)


def separator_of(weights: Weights) -> Separator:
    """Build a separator from weights.

    Raises:
        UserError: they are not those of a separator.
    """
    settings = weights.settings
    try:
        name, rate = settings["network"], int(settings["sample_rate"])
        module, kind = NETWORKS[name]
        config = shipped.config_of(kind, settings["config"])
        if not 100 <= rate <= 1_000_000:
            raise ValueError(f"a sample rate of {rate}")
        like = jax.eval_shape(lambda key: module.init(config, key), jax.random.key(0))
        parameters = shipped.numbers(weights, like.parameters)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"these are not the weights of a separator ({error}); bayessep train conv-tasnet makes some.") from None
    return Separator(name, config, parameters, rate, settings.get("both_signs") is True)


def load(network: str, path: str | Path | None = None) -> Separator:
    """Load the separator of a file, or the one that ships under the network's name.

    Raises:
        UserError: the file cannot be read, or holds no separator or that of another network; or none ships.
    """
    if path is None:
        if network not in shipped.names():
            raise UserError(f"no {network} is installed; give --weights FILE, a file that bayessep train {network} has written.")
        return separator_of(shipped.read(network))
    found = shipped.made_of_file(path, separator_of)
    if found.network != network:
        raise UserError(f"{path} holds weights of {found.network}, not of {network}; give --method {found.network}.")
    return found


# --- windows -------------------------------------------------------------------------------------------------------------


def in_windows(
    pieces: Iterable[Samples], separator: Windowed, scale: float, windows: tuple[float, ...] = WINDOWS
) -> Iterator[Float[np.ndarray, "_ 2 _"]]:
    """Separate a recording that arrives in pieces, at the separator's sample rate; as many samples come out as go in."""
    if isinstance(separator, Separator) and isinstance(separator.config, ConvTasNet) and separator.config.causal:
        yield from _streamed(pieces, separator, scale)
        return
    rate, context, hop = separator.sample_rate, separator.context, separator.hop
    fade = round(FADE * rate)
    sizes = [round(seconds * rate) for seconds in windows]
    longest = sizes[-1] = max(sizes[-1], 4 * (context + fade))
    step = (longest - 2 * context - fade) // hop * hop  # keeps frames aligned with those of the whole recording
    fade = longest - 2 * context - step
    rise = (np.arange(fade, dtype=np.float32) + 0.5) / np.float32(fade)
    held, faded, ended, begin = np.zeros((1, 0), np.float32), None, False, 0
    source = iter(pieces)
    while not ended:
        while not ended and held.shape[1] <= longest:  # one sample more than a window, to know whether it is the last
            piece = next(source, None)
            if piece is None:
                ended = True
            else:
                held = piece if not held.shape[1] else np.concatenate([held, piece], axis=1)
        here = held[:, :longest]
        n = here.shape[1]
        if not n:
            return
        size = next(s for s in sizes if s >= n) if faded is None else longest
        padded = np.pad(here * np.float32(1 / scale), ((0, 0), (0, size - n)))
        found = separator.predict(padded, n, begin)[..., :n] * np.float32(scale)
        if faded is not None:  # crossfade with the end of the previous window
            found[..., context : context + fade] *= rise
            found[..., context : context + fade] += faded
            found = found[..., context:]
        if not ended:
            faded = found[..., -context - fade : -context] * (1 - rise)
            found = found[..., : -context - fade]
        held, begin = held[:, step:], begin + step
        yield found


def _streamed(pieces: Iterable[Samples], separator: Separator, scale: float) -> Iterator[Float[np.ndarray, "_ 2 _"]]:
    """Separate exactly with a causal network: blocks of one length, the last padded with silence.

    Where a network leaves the gains open, they are fitted to everything so far, and change gradually from block to block.
    """
    config = separator.config
    size = -(-separator.sample_rate // config.hop) * config.hop
    held, late = np.zeros((1, 0), np.float32), config.hop
    states: list[conv_tasnet.Stream] = []
    known: list[np.ndarray] = []
    rise = np.minimum((np.arange(size, dtype=np.float32) + 0.5) / np.float32(FADE * separator.sample_rate), 1)

    def pushed(block: Samples) -> Float[np.ndarray, "_ 2 _"]:
        if not states:
            states.extend([conv_tasnet.stream_init(config)] * len(block))
            known.extend([np.zeros((2, 3))] * len(block))
        made = []
        for n, channel in enumerate(block):
            mixture = np.concatenate([np.asarray(states[n].hop), channel])[: len(channel)]  # aligned with the output
            states[n], out = conv_tasnet.stream_push(config, separator.parameters, states[n], jnp.asarray(channel))
            found = np.asarray(out)
            if not separator.sums:
                past, known[n] = known[n], known[n] + products(mixture, found)
                before, after = gains_of(past if past.any() else known[n]), gains_of(known[n])  # the first sound has its own
                found = to_scale(mixture, found, before + (after - before) * rise)
            made.append(found)
        return np.stack(made)

    for piece in pieces:
        held = piece if not held.shape[1] else np.concatenate([held, piece], axis=1)
        while held.shape[1] >= size:
            found = pushed(held[:, :size] * np.float32(1 / scale))[..., late:] * np.float32(scale)
            held, late = held[:, size:], 0
            yield found
    # The remaining samples, and the hop by which a stream lags.
    left = held.shape[1] + config.hop - late
    block = np.pad(held * np.float32(1 / scale), ((0, 0), (0, 2 * size - held.shape[1])))
    if len(held) and (left or states):
        found = np.concatenate([pushed(block[:, :size]), pushed(block[:, size:])], axis=-1)
        yield found[..., late : late + left] * np.float32(scale)


# --- recordings ----------------------------------------------------------------------------------------------------------


_FAINTEST = 1e-30
"""Levels below are silence: float32 could not say what recordings are multiplied by."""


class _Measured(NamedTuple):
    """Levels of a recording; the mean square is that of its stretches that are not silent, without the offset."""

    offset: Float[np.ndarray, "C 1"]  # mean of each channel
    lowest: Float[np.ndarray, "C 1"]
    highest: Float[np.ndarray, "C 1"]
    mean_square: float


def _measured(read: Callable[[], Iterable[Samples]], sample_rate: int, name: str) -> _Measured:
    """Measure a recording, in stretches of a quarter of a second.

    Raises:
        UserError: it holds a sample that is not finite.
    """
    size = max(1, sample_rate // 4)
    total, lowest, highest = np.zeros((3, 1, 1))
    powers, counts = [np.zeros(1)], [np.ones(1)]
    for piece in filter(np.size, read()):
        firsts = np.arange(0, piece.shape[1], size)
        powers.append(np.add.reduceat(np.square(piece, dtype=np.float64).sum(0), firsts))
        counts.append(np.diff(firsts, append=piece.shape[1]) * len(piece))
        if not np.isfinite(powers[-1]).all():
            raise not_finite(name)
        total = total + piece.sum(axis=1, dtype=np.float64, keepdims=True)
        lowest = np.minimum(lowest, piece.min(axis=1, keepdims=True))
        highest = np.maximum(highest, piece.max(axis=1, keepdims=True))
    power, count = np.concatenate(powers), np.concatenate(counts)
    offset = total * len(total) / max(count[1:].sum(), 1)
    power = power - count * np.mean(offset**2)
    power[power / count <= 1e-12 * np.mean(offset**2)] = 0  # rounding
    loud = power / np.maximum(count, size * len(total))  # of a few samples at the end of a piece, as if silence followed
    heard = loud >= SILENT * loud.max()
    mean_square = float(power[heard].sum() / count[heard].sum())
    offset, lowest, highest = (x.astype(np.float32) for x in (offset, lowest, highest))
    return _Measured(offset, lowest, highest, mean_square)


def speech_of(
    read: Callable[[], Iterable[Samples]], sample_rate: int, separator: Windowed, name: str = "the recording"
) -> Iterator[tuple[Samples, Samples]]:
    """Yield pieces of a recording with the speech in each; `read` restarts the recording, and is called three or four times.

    `name` is the name of the recording in error messages.

    Raises:
        UserError: the recording is silent, or not finite.
    """
    found = _measured(read, sample_rate, name)
    # Waveform networks were trained without a constant offset; one as large as the sound costs decibels. It stays in the music.
    offset = found.offset * np.float32(isinstance(separator, Separator))
    scale = separator.level(found.mean_square, float(np.maximum(found.highest - offset, offset - found.lowest).max()))
    if not found.mean_square or scale < _FAINTEST:
        raise UserError(f"{name} is silent: there is nothing to separate; give a recording with sound in it.")
    rate = separator.sample_rate

    def at_its_rate() -> Iterable[Samples]:
        heard = (piece - offset for piece in read())
        return heard if sample_rate == rate else resampled(heard, sample_rate, rate)

    if isinstance(separator, Fitting):
        separator = separator.fitted(piece * np.float32(1 / scale) for piece in at_its_rate())
    if sample_rate <= rate:
        heard = at_its_rate()
        low = (found[:, 0] for found in in_windows(heard, separator, scale))
        held = Held(low if sample_rate == rate else resampled(low, rate, sample_rate), padded=True)
        for piece in read():
            yield piece, held.take(piece.shape[1])
        return
    both = in_windows(at_its_rate(), separator, scale)
    held = Held(resampled(_with_shares(both, rate), rate, sample_rate), padded=True)
    for piece in read():
        speech, below, share = np.split(held.take(piece.shape[1]), 3)
        yield piece, speech + np.clip(share, 0, 1) * (piece - offset - below)


def _with_shares(pieces: Iterable[Float[np.ndarray, "_ 2 _"]], sample_rate: int) -> Iterator[Samples]:
    """Stack the speech, the sum of both sources, and the speech's share of high-frequency energy (smoothed over 10 ms)."""
    stays = np.exp(-1 / (0.01 * sample_rate))
    last = state = None
    for found in pieces:
        if last is None or state is None:
            last, state = np.zeros_like(found[..., :1]), np.zeros((*found.shape[:2], 1))
        # The difference of neighbouring samples grows with frequency.
        energy, state = scipy.signal.lfilter([1 - stays], [1, -stays], np.diff(found, axis=-1, prepend=last) ** 2, zi=state)
        last = found[..., -1:] if found.shape[-1] else last
        share = energy[:, 0] / np.maximum(energy.sum(1), 1e-20)
        yield np.concatenate([found[:, 0], found.sum(1), share.astype(np.float32)])


class Stems(NamedTuple):
    """Separated stems of a recording."""

    speech: Float[np.ndarray, "C N"]
    music: Float[np.ndarray, "C N"]  # exactly the mixture minus the speech


def separate(
    mixture: Samples, sample_rate: int, separator: Windowed, *, name: str = "the recording", progress: Progress = silent
) -> Stems:
    """Separate a recording in memory into speech and music; `name` is its name in error messages.

    Raises:
        UserError: the mixture is silent, or not of shape (C, N).
    """
    check_mixture(mixture, name)
    mixture = np.asarray(mixture, np.float32)
    size = 10 * max(1, round(sample_rate))
    pieces = [mixture[:, k : k + size] for k in range(0, mixture.shape[1], size)]
    parts: list[Samples] = []
    for _, speech in speech_of(lambda: pieces, sample_rate, separator, name):
        parts.append(speech)
        progress("separating", sum(part.shape[1] for part in parts), mixture.shape[1], float("nan"))
    speech = np.concatenate(parts, axis=1)
    return Stems(speech, mixture - speech)


def separate_file(
    path: Path, separator: Windowed, speech_path: Path, music_path: Path, subtype: str = "FLOAT", *, progress: Progress = silent
) -> None:
    """Separate an audio file into a speech file and a music file.

    Raises:
        UserError: as `separate` and `audio.read`; no stem is left half written.
    """
    info = audio.probe(path)
    rate, frames = info.sample_rate, info.frames
    done = 0

    def read() -> Iterator[Samples]:
        return (block.samples for block in audio.blocks(path, 10.0))

    with (
        audio.Writer(speech_path, rate, info.channels, subtype, frames) as speech_out,
        audio.Writer(music_path, rate, info.channels, subtype, frames) as music_out,
    ):
        for piece, speech in speech_of(read, rate, separator, str(path)):
            speech_out.append(speech)
            music_out.append(piece - speech)
            done += piece.shape[1]
            progress("separating", done, frames, float("nan"))
