"""A synthetic broadcast generated from a seed: two voices over a repeating jingle, with complete ground truth.

The demo and the tests run on it. It sounds like people talking over music, is the same to the byte for the same
seed, and is no evidence of how well a method does on real recordings.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float
from scipy.ndimage import uniform_filter1d

from bayessep.mixing import fade, scale_to_ratio
from bayessep.segments import Segment


class Broadcast(NamedTuple):
    """Two voices over a repeating jingle, with the ground truth. All waveforms share one gain.

    Where music plays, it is ``jingle`` repeated from its first sample on (times a fade, if one was requested).
    """

    mixture: Float[np.ndarray, " N"]  # exactly speech + music
    speech: Float[np.ndarray, " N"]
    music: Float[np.ndarray, " N"]
    sample_rate: int
    jingle: Float[np.ndarray, " P"]  # one period
    labelled_music: Float[np.ndarray, " L"]  # the first part of the jingle, which is labelled
    training_speech: Float[np.ndarray, " M"]  # the same voices, other utterances
    segments: list[Segment]  # the truth
    labels: list[Segment]  # labels of a hypothetical user: the truth without the unlabelled stretch


def generate_broadcast(
    seed: int,
    *,
    seconds: float | int = 30.0,
    sample_rate: int = 16000,
    jingle_seconds: float | int = 4.0,
    labelled_fraction: float | int = 0.5,
    smr_db: float | int = 0.0,
    training_seconds: float | int = 20.0,
    layout: Literal["mixed", "programme"] = "mixed",
    fade_seconds: float | int = 0.0,
) -> Broadcast:
    """Generate a broadcast from a seed.

    ``layout="mixed"``: speech over music from the first sample to the last; the training material is separate.
    ``layout="programme"``: speech alone; music alone (the labelled part of the jingle); speech over music;
    and then an unlabelled stretch with music alone, speech over music, and speech alone in turn.

    Args:
        seed: determines every random choice; the same seed gives the same bytes on the same machine.
        seconds: length of the recording.
        sample_rate: in Hz, at least 8000.
        jingle_seconds: period of the music, which need not be a whole number of hops.
        labelled_fraction: how much of the jingle was labelled, in (0, 1].
        smr_db: ratio of the energies of speech and music where both are on, in dB (before the fades).
        training_seconds: length of the clean training speech.
        layout: see above.
        fade_seconds: length of the fades at the beginning and at the end of the music (`mixing.fade`).

    Raises:
        ValueError: a setting is out of range, or a programme of this length is too short for its stretches.
    """
    if (
        sample_rate < 8000
        or jingle_seconds < 0.5
        or not 0 < labelled_fraction <= 1
        or min(seconds, training_seconds) <= 0
    ):
        raise ValueError(
            "needs sample_rate >= 8000, jingle_seconds >= 0.5, labelled_fraction in (0, 1], lengths > 0, not "
            f"{sample_rate}, {jingle_seconds}, {labelled_fraction}, {seconds} and {training_seconds}"
        )
    # Separate random streams, so that the length of the training speech does not change the speech in the
    # mixture.
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
    voices = _draw_voices(streams[0])
    training = _speak(streams[1], voices, round(training_seconds * sample_rate), sample_rate)
    jingle = _compose(streams[2], round(jingle_seconds * sample_rate), sample_rate)
    labelled = round(labelled_fraction * len(jingle))

    truth, labels = _layout(layout, seconds, labelled / sample_rate)
    length = round(seconds * sample_rate)
    speech, music = np.zeros(length), np.zeros(length)
    both = np.zeros(length, bool)
    played = 0
    for segment in truth:
        span = slice(round(segment.start * sample_rate), min(round(segment.end * sample_rate), length))
        samples = span.stop - span.start
        if "speech" in segment.label:
            speech[span] = _speak(streams[3], voices, samples, sample_rate)
        if "music" in segment.label:
            music[span] = jingle[np.arange(played, played + samples) % len(jingle)]
            played += samples
        both[span] = segment.label == "speech+music"
    loudness = float(scale_to_ratio(speech[both], music[both], smr_db))
    music, jingle = loudness * music, loudness * jingle
    if fade_seconds:
        first, last = np.flatnonzero(music)[[0, -1]]
        music[first : last + 1] = fade(music[first : last + 1], sample_rate, fade_seconds, fade_seconds)

    waveforms = speech, music, jingle, training
    gain = 0.7 / max(np.max(np.abs(w)) for w in (speech + music, *waveforms))
    speech, music, jingle, training = ((gain * w).astype(np.float32) for w in waveforms)
    return Broadcast(
        speech + music, speech, music, sample_rate, jingle, jingle[:labelled], training, truth, labels
    )  # fmt: skip


def _layout(layout: str, seconds: float | int, labelled_music: float) -> tuple[list[Segment], list[Segment]]:
    """Return the true segments, and the leading ones among them that are labelled."""
    if layout == "mixed":
        truth = [Segment(0.0, float(seconds), "speech+music")]
        return truth, truth[:]
    if layout != "programme":
        raise ValueError(f"layout must be 'mixed' or 'programme', not {layout!r}")
    rest = seconds - labelled_music
    if rest < 5.0:
        raise ValueError(f"a programme needs 5 s beside its {labelled_music:g} s of labelled music, not {rest:g} s")
    plan = [
        ("speech", 0.3 * rest), ("music", labelled_music), ("speech+music", 0.35 * rest),
        ("music", 0.1 * rest), ("speech+music", 0.15 * rest), ("speech", 0.1 * rest),
    ]  # fmt: skip
    ends = np.cumsum([length for _, length in plan])
    truth = [Segment(float(end - length), float(end), label) for (label, length), end in zip(plan, ends, strict=True)]
    return truth, truth[:3]


# --- speech-like sound: a source of harmonics and noise, shaped by resonances that move

_FRAME_RATE = 200  # control values a second; consonants are shorter than 10 ms at times
# First three resonances in Hz of an adult male voice, rounded: i, e, ae, a, o, u, and the neutral vowel.
_VOWELS = np.array(
    [[280, 2250, 2950], [480, 1900, 2550], [660, 1720, 2410], [740, 1150, 2500], [520, 880, 2450], 
     [320, 900, 2250], [500, 1450, 2500]]
)  # fmt: skip
_FRICATIVES = np.array([2700.0, 4200.0, 5600.0, 3400.0])  # centre of the noise in Hz


class _Voice(NamedTuple):
    pitch: float  # Hz
    scale: float  # of the resonances, which are higher in shorter vocal tracts
    rate: float  # relative speaking rate


class _Controls(NamedTuple):
    """Articulatory parameters, sampled at the frame rate."""

    pitch: np.ndarray  # (frames,) Hz
    voicing: np.ndarray  # (frames,) amplitude of the harmonics
    noise: np.ndarray  # (frames,) amplitude of the frication
    noise_centre: np.ndarray  # (frames,) Hz
    resonances: np.ndarray  # (frames, 3) Hz
    scale: np.ndarray  # (frames,)


def _draw_voices(rng: np.random.Generator) -> list[_Voice]:
    """Draw a lower and a higher voice."""
    return [
        _Voice(rng.uniform(98, 128), rng.uniform(0.97, 1.03), rng.uniform(0.95, 1.1)),
        _Voice(rng.uniform(180, 225), rng.uniform(1.13, 1.2), rng.uniform(0.95, 1.15)),
    ]


def _speak(rng: np.random.Generator, voices: list[_Voice], length: int, sample_rate: int) -> np.ndarray:
    """Synthesise ``length`` samples of the voices taking turns, at a root mean square of one."""
    controls = _articulate(rng, voices, int(np.ceil(length * _FRAME_RATE / sample_rate)) + 1)
    at = np.arange(length) * (_FRAME_RATE / sample_rate)
    pitch, voicing, noise = (np.interp(at, np.arange(len(c)), c) for c in controls[:3])

    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    pulses = _pulse_train(phase, np.floor(0.48 * sample_rate / pitch))
    breath = 0.12 * rng.standard_normal(length) * (1 + np.cos(phase))  # noise while the glottis is open
    # Glottal flow falls by 12 dB an octave, more above 2 kHz, and lip radiation adds 6 dB; the DC component is removed.
    low, high = np.exp(-2 * np.pi * np.array([180.0, 1800.0]) / sample_rate)
    tilt = np.array([[1.0, -1.0, 0.0, 1.0, -0.99, 0.0], [1.0, 0.0, 0.0, 1.0, -low - high, low * high]])
    source = np.asarray(scipy.signal.sosfilt(tilt, voicing * (pulses + breath)))
    voiced = _moving_filter(source, _vocal_tract(controls, sample_rate), sample_rate)
    centre = np.minimum(controls.noise_centre, 0.42 * sample_rate)[:, None]
    hiss = _moving_filter(
        noise * rng.standard_normal(length), _band_pass(centre, 0.4 * centre, sample_rate), sample_rate
    )

    speech = _even_out(voiced, sample_rate) + 0.9 * hiss
    edge = min(length, sample_rate // 100)  # no clicks where a stretch of speech begins and ends
    speech[:edge] *= np.linspace(0, 1, edge)
    speech[length - edge :] *= np.linspace(1, 0, edge)
    return speech / np.sqrt(np.mean(speech**2))


def _even_out(x: np.ndarray, sample_rate: int) -> np.ndarray:
    """Compress the level of syllables, as broadcasters do, to a root mean square near one."""
    x = x / np.sqrt(np.mean(x**2))
    level = np.sqrt(np.maximum(uniform_filter1d(x**2, round(0.1 * sample_rate)), 0.0))
    return x / (0.3 + level) ** 0.7


def _articulate(rng: np.random.Generator, voices: list[_Voice], frames: int) -> _Controls:
    """Generate a sequence of phones with target parameters, and smooth it into continuous trajectories."""
    score: list[np.ndarray] = []  # (frames, pitch, voicing, noise, noise centre, F1, F2, F3, scale)
    written, turn = 0, int(rng.integers(2))
    while written < frames:
        voice = voices[turn % 2]
        turn += 1
        for _ in range(rng.integers(1, 4)):
            phrase = _phrase(rng, voice)
            score += phrase
            written += sum(int(phone[0]) for phone in phrase)
    table = np.array(score)
    track = np.repeat(table[:, 1:], table[:, 0].astype(int), axis=0)[:frames]
    pitch = _smooth(track[:, 0], 25)
    vibrato = 1 + 0.012 * np.sin(2 * np.pi * 5.2 * np.arange(frames) / _FRAME_RATE + rng.uniform(0, 6))
    flutter = 1 + 0.02 * _smooth(rng.standard_normal(frames), 7)
    return _Controls(
        pitch * vibrato * flutter, _smooth(track[:, 1], 7), _smooth(track[:, 2], 3), track[:, 3],
        np.stack([_smooth(track[:, i], 13) for i in (4, 5, 6)], axis=1), _smooth(track[:, 7], 13),
    )  # fmt: skip


def _phrase(rng: np.random.Generator, voice: _Voice) -> list[np.ndarray]:
    """Generate the phones of a phrase: a few syllables with falling pitch, and a pause."""
    syllables = int(rng.integers(4, 10))
    phones = []

    def add(seconds: float, pitch: float, voicing: float, noise: float, centre: float, formants: np.ndarray) -> None:
        frames = max(1, round(seconds * _FRAME_RATE / voice.rate))
        phones.append(np.array([frames, pitch, voicing, noise, centre, *(voice.scale * formants), voice.scale]))

    for n in range(syllables):
        pitch = (
            voice.pitch * (1.15 - 0.3 * n / syllables) * rng.choice([0.94, 1.0, 1.0, 1.12]) * rng.uniform(0.97, 1.03)
        )
        loudness = rng.uniform(0.6, 1.2) * (0.8 if n == syllables - 1 else 1.0)
        vowel, next_vowel = _VOWELS[rng.choice(len(_VOWELS), 2)] * rng.uniform(0.94, 1.06, (2, 3))
        centre = rng.choice(_FRICATIVES) * voice.scale
        manner = rng.choice(["fricative", "plosive", "nasal", "none"], p=[0.33, 0.32, 0.2, 0.15])
        if manner == "fricative":
            voiced = 0.25 * (rng.random() < 0.35)
            add(rng.uniform(0.06, 0.11), pitch, voiced, rng.uniform(0.3, 0.8), centre, vowel)
        elif manner == "plosive":
            add(rng.uniform(0.04, 0.07), pitch, 0.0, 0.0, centre, vowel)  # closed
            add(0.01, pitch, 0.0, rng.uniform(0.8, 1.4), centre, vowel)  # burst
            add(rng.uniform(0.01, 0.03), pitch, 0.1, 0.15, centre, vowel)  # breath
        elif manner == "nasal":
            add(
                rng.uniform(0.05, 0.08),
                pitch,
                0.35 * loudness,
                0.0,
                centre,
                np.array([270.0, 1300.0, 2300.0]),
            )
        add(rng.uniform(0.07, 0.16), pitch, loudness, 0.0, centre, vowel)
        if rng.random() < 0.3:  # a diphthong
            add(rng.uniform(0.05, 0.09), 0.97 * pitch, 0.8 * loudness, 0.0, centre, next_vowel)
    add(rng.uniform(0.12, 0.42), voice.pitch, 0.0, 0.0, 4000.0, _VOWELS[-1])
    return phones


def _smooth(x: np.ndarray, width: int) -> np.ndarray:
    window = np.hanning(width + 2)
    padded = np.pad(x, width // 2 + 1, mode="edge")
    return np.convolve(padded, window / window.sum(), mode="same")[width // 2 + 1 : -(width // 2 + 1)]


def _pulse_train(phase: np.ndarray, harmonics: np.ndarray) -> np.ndarray:
    """Sum cos(k phase) over k = 1 … harmonics, over sqrt(harmonics), by Dirichlet's kernel: pulses without aliasing."""
    half = np.sin(phase / 2)
    near = np.abs(half) < 1e-6
    kernel = np.sin((harmonics + 0.5) * phase) / np.where(near, 1.0, half)
    return np.where(near, harmonics, 0.5 * (kernel - 1)) / np.sqrt(harmonics)


def _vocal_tract(controls: _Controls, sample_rate: int) -> np.ndarray:
    """Return second-order sections (frames, resonances, 6): three moving resonances, and fixed ones up to 7.5 kHz."""
    upper = np.arange(3500.0, 8000.0, 1000.0) * controls.scale[:, None]
    # From high to low: steps from moving low resonances must not pass through the high ones, which would ring.
    centre = np.concatenate([upper[:, ::-1], controls.resonances[:, ::-1]], axis=1)
    radius = np.exp(-np.pi * (50 + 0.05 * centre) / sample_rate)
    # Resonances near the Nyquist frequency are faded out gradually, as a step would be heard as a click.
    radius *= np.clip((0.46 - centre / sample_rate) / 0.06, 0.0, 1.0)
    a1, a2 = -2 * radius * np.cos(2 * np.pi * centre / sample_rate), radius**2
    gain, zero, one = 1 + a1 + a2, np.zeros_like(a1), np.ones_like(a1)  # each has unit gain at DC
    return np.stack([gain, zero, zero, one, a1, a2], axis=-1)


def _band_pass(centre: np.ndarray, width: np.ndarray, sample_rate: int) -> np.ndarray:
    radius = np.exp(-np.pi * width / sample_rate)
    gain, zero, one = (1 - radius**2) / 2, np.zeros_like(radius), np.ones_like(radius)
    return np.stack(
        [gain, zero, -gain, one, -2 * radius * np.cos(2 * np.pi * centre / sample_rate), radius**2], axis=-1
    )


def _moving_filter(x: np.ndarray, sections: np.ndarray, sample_rate: int) -> np.ndarray:
    """Filter with coefficients (frames, sections, 6) that change with every frame; the filter state carries over.

    Frames are filtered in parallel, twice: from a zero state, which gives each frame's contribution to the final state, and then
    from the initial states that follow from these.
    """
    edges = np.ceil(np.arange(len(sections) + 1) * (sample_rate / _FRAME_RATE)).astype(int)
    count, size = int(np.searchsorted(edges, len(x))), 2 * sections.shape[1]
    sections, lengths = sections[:count], np.diff(edges[: count + 1])
    place = np.arange(lengths.max())[:, None]
    within = place < lengths  # some frames are a sample shorter
    frames = np.append(x, np.zeros(len(place)))[edges[:count] + place]

    _, added = _cascade(frames, sections, np.zeros((count, size)), within)
    _, one = _cascade(np.zeros((1, count)), sections, np.eye(size)[:, None].repeat(count, 1), within[:1])
    one, kept = one.swapaxes(0, 1), np.empty((count, size, size))  # state transition matrices of a sample, and of a frame
    for n in set(lengths.tolist()):
        kept[lengths == n] = np.linalg.matrix_power(one[lengths == n], n)
    states = np.zeros((count + 1, size))
    for n in range(count):
        states[n + 1] = states[n] @ kept[n] + added[n]

    y, _ = _cascade(frames, sections, states[:-1], within)
    return y.T[within.T][: len(x)]


def _cascade(
    frames: np.ndarray, sections: np.ndarray, states: np.ndarray, within: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Filter frames (samples, frames), each by its own sections, from states (…, frames, 2 for each section).

    The state of a frame is updated only `within` its length. The arithmetic and its order are those of `scipy.signal.sosfilt`.

    Returns:
        the filtered frames and the final states.
    """
    b0, b1, b2, _, a1, a2 = sections.transpose(2, 1, 0).copy()
    states = np.moveaxis(states, -1, 0).copy()
    first, second = states[::2], states[1::2]  # views: what is written to them is written to the states
    made = np.empty((len(frames), *states.shape[1:]))
    for n, (x, on) in enumerate(zip(frames, within, strict=True)):
        go = (..., on) if not on.all() else ...
        for s in range(len(b0)):
            was = x
            x = b0[s] * was + first[s]
            first[s][go] = (b1[s] * was - a1[s] * x + second[s])[go]
            second[s][go] = (b2[s] * was - a2[s] * x)[go]
        made[n] = x
    return made, np.moveaxis(states, 0, -1)


# --- the jingle: chords, a bass, an arpeggio with a tune on top, and drums

_PROGRESSIONS = ((0, 7, 9, 5), (0, 9, 5, 7), (9, 5, 0, 7), (0, 5, 9, 7))  # roots in semitones above the key
_MINOR_ROOTS = (2, 4, 9)


def _compose(rng: np.random.Generator, period: int, sample_rate: int) -> np.ndarray:
    """Compose one period (period,), two bars of four beats; sounds that ring past its end wrap around to its start."""
    beat = period / sample_rate / 8
    key, progression = int(rng.integers(48, 56)), _PROGRESSIONS[rng.integers(len(_PROGRESSIONS))]
    ring = np.zeros(period)

    def play(beats: int | float, sound: np.ndarray) -> None:
        at = round(beats * beat * sample_rate)
        np.add.at(ring, np.arange(at, at + len(sound)) % period, sound)

    for bar, root in enumerate(progression):  # a chord every two beats
        chord = key + root + np.array([0.0, 3.0 if root in _MINOR_ROOTS else 4.0, 7.0, 12.0])
        start = 2.0 * bar
        for note in chord[:3]:
            play(start, 0.20 * _note(note, 2.2 * beat, 1.2, sample_rate))
        for offset, length in ((0.0, 1.4), (1.5, 0.6)):
            play(
                start + offset,
                0.55 * _note(chord[0] - (12 if root < 4 else 24), length * beat, 2.5, sample_rate),
            )
        for eighth in range(4):
            play(start + eighth / 2, 0.22 * _note(chord[rng.integers(4)] + 12, 1.2 * beat, 4.0, sample_rate))
        for offset in rng.choice(4, size=rng.integers(1, 4), replace=False) / 2:
            play(start + offset, 0.30 * _note(rng.choice(chord) + 24, 1.5 * beat, 3.0, sample_rate))
    for n in range(16):
        play(n / 2, (0.24 if n % 2 else 0.12) * _hiss(rng, 0.06, 90.0, 7500.0, sample_rate))
    for n in range(8):
        play(n, 0.30 * _hiss(rng, 0.15, 30.0, 2000.0, sample_rate) if n % 2 else 0.8 * _kick(sample_rate))
    return ring / np.sqrt(np.mean(ring**2))


def _note(midi: float, seconds: float, decay: float, sample_rate: int) -> np.ndarray:
    """Synthesise a plucked tone: higher harmonics are weaker, decay faster and are sharper."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch = 440.0 * 2 ** ((midi - 69) / 12)
    k = np.arange(1, 25)
    frequency = pitch * k * np.sqrt(1 + 2e-4 * k**2)
    k, frequency = (v[frequency < 0.47 * sample_rate] for v in (k, frequency))
    # Each harmonic is a sequence of powers of a complex number: those of every 64th sample times those of 64 samples give all.
    rate = (2j * np.pi * frequency - decay * (1 + 0.25 * (k - 1))) / sample_rate
    coarse = np.exp(np.arange(0, len(t), 64)[:, None] * rate) * k**-1.2
    tone = (coarse @ np.exp(rate[:, None] * np.arange(64))).imag.reshape(-1)[: len(t)]
    return tone * np.clip(t / 0.004, 0, 1) * np.clip((seconds - t) / 0.03, 0, 1)


def _hiss(rng: np.random.Generator, seconds: float, decay: float, centre: float, sample_rate: int) -> np.ndarray:
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    centre = min(centre, 0.4 * sample_rate)
    sos = _band_pass(np.array([centre]), np.array([0.8 * centre]), sample_rate)
    return np.asarray(scipy.signal.sosfilt(sos, rng.standard_normal(len(t)))) * np.exp(-decay * t)


def _kick(sample_rate: int) -> np.ndarray:
    t = np.arange(round(0.2 * sample_rate)) / sample_rate
    return np.sin(2 * np.pi * (50 * t - 4 * np.exp(-30 * t))) * np.exp(-18 * t) * np.clip((0.2 - t) / 0.02, 0, 1)
