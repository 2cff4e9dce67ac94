"""Paper 000's experiment on the available recordings: which speaker is mixed with which jingle, and what is known of both.

Eight speakers, as in the paper; a four-second jingle repeats under whole utterances, and its first half is labelled. Speech is
learned from the same speaker (Self), from that speaker and three others (All), or from these three only (Other). Speakers and
jingles are named here, so that everybody who has the recordings gets the same mixtures. None of the experiment's mixtures was
used to choose a default of `Settings`, but some speakers and jingles were (`SEEN`): the tables also report the other items
alone. Alternatives to the defaults are compared on other mixtures (`DEVELOPMENT`), which share no speaker or jingle with the
experiment, but some composers.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import signal

from bayessep import audio, data
from bayessep.data import Recording
from bayessep.errors import UserError
from bayessep.mixing import scale_to_ratio

RATE = 16000  # Hz
JINGLE_SECONDS = 4.0
ITEM_SECONDS = 16.0  # as many whole utterances as fit, centred in silence
TRAINING_SECONDS = 30.0  # per speaker, exceeded only to finish an utterance; the paper uses two minutes
TRAININGS = ("Self", "All", "Other")


class Cast(NamedTuple):
    """Speakers and the jingles they are mixed with."""

    speakers: dict[str, int]  # `split_group` in the manifest, and number of items
    jingles: tuple[tuple[str, float], ...]  # assigned to the items in turn: file, and start of the jingle in seconds
    rounds: int = 1  # how often the same speech is used, each time with other jingles


EXPERIMENT = Cast(
    {
        "ljspeech-LJ": 3,
        "vctk-p225": 1,
        "vctk-p226": 1,
        "librivox-sense-and-sensibility-01-reader": 1,
        "librispeech-1998": 1,
        "librispeech-2414": 1,
        "librispeech-2609": 1,
        "librispeech-1688": 1,
    },
    (
        ("music/librosa/vibe_ace.ogg", 6.0),
        ("music/opensurge/sharp.ogg", 6.0),
        ("music/valyriatear/accion.ogg", 10.0),
        ("music/librosa/sugar_plum_fairy.ogg", 6.0),
        ("music/opensurge/creativecommons.ogg", 0.0),
        ("music/valyriatear/house_in_a_forest.ogg", 4.0),
        ("music/librosa/sweet_waltz.ogg", 6.0),
        ("music/waveform_playlist/danzon_de_pasion_sting.mp3", 0.0),
        ("music/librosa/choice_drum_bass.ogg", 4.0),
        ("music/opensurge/allegro.ogg", 0.5),
    ),
)
"""Mixtures for the reproduction of the paper's tables."""

DEVELOPMENT = Cast(
    {
        "librispeech-3080": 1,
        "librispeech-3005": 1,
        "librispeech-198": 1,
        "librispeech-5703": 1,
        "librispeech-1088": 1,
        "nst-se10x016": 1,
    },
    (
        ("music/neverball/haze.ogg", 10.0),
        ("music/neverball/track1.ogg", 20.0),
        ("music/valyriatear/shrine.ogg", 10.0),
        ("music/sms_tools/orchestra.flac", 1.0),
        ("music/lmms/beats_electro_beat01_120_bpm.ogg", 0.0),
        ("music/valyriatear/dont_close_your_eyes.ogg", 8.0),
        ("music/neverball/flood.ogg", 20.0),
        ("music/neverball/inter.ogg", 8.0),
        ("music/neverball/snow.ogg", 20.0),
        ("music/neverball/title.ogg", 10.0),
        ("music/neverball/track2.ogg", 20.0),
        ("music/neverball/track4.ogg", 30.0),
        ("music/neverball/track6.ogg", 20.0),
        ("music/opensurge/intro.ogg", 30.0),
        ("music/opensurge/invincible.ogg", 5.0),
        ("music/opensurge/template.ogg", 30.0),
        ("music/opensurge/winning.ogg", 2.0),
        ("music/sms_tools/cello-phrase.flac", 1.0),
        ("music/sms_tools/sax-phrase.flac", 1.0),
        ("music/valyriatear/battle_lost.ogg", 6.0),
        ("music/valyriatear/rainy.ogg", 20.0),
        ("music/lmms/latin_latin_guitar03_120_bpm.ogg", 0.0),
        ("music/mirdata/brid_samba.flac", 0.5),
        ("music/librosa/solo_trumpet.ogg", 0.5),
    ),
    rounds=4,
)
"""Mixtures on which the defaults are compared with alternatives."""

SEEN = ("ljspeech-LJ", "librispeech-1998", "vibe_ace", "sharp", "sugar_plum_fairy")
"""Speakers and jingles of other mixtures, on which early versions of the defaults were chosen."""


class Item(NamedTuple):
    """Speech, a jingle and training speech; mono, at `RATE`."""

    name: str
    speech: Float[np.ndarray, " N"]
    transcript: str  # empty where there is none
    jingle: Float[np.ndarray, " J"]  # `JINGLE_SECONDS` long
    training: dict[str, tuple[np.ndarray, ...]]  # by training set (`TRAININGS`)


class Mixed(NamedTuple):
    """An item mixed at a ratio under a condition."""

    speech: Float[np.ndarray, " N"]
    music: Float[np.ndarray, " N"]
    labelled: Float[np.ndarray, " M"]  # the first half of the jingle, at the gain of the mix but without the condition's change

    @property
    def mixture(self) -> Float[np.ndarray, " N"]:
        """Sum of speech and music."""
        return self.speech + self.music


# --- conditions ----------------------------------------------------------------------------------------------------------

OUT_OF_STEP = 237  # samples of silence after each repeat, so that the period is a multiple of no hop


def _filtered(music: np.ndarray) -> np.ndarray:
    """Band-pass the music to 300 to 3000 Hz, with slopes of 6 dB per octave."""
    sections = signal.butter(1, [300, 3000], "band", fs=RATE, output="sos")
    return np.asarray(signal.sosfilt(sections, music), np.float32)


def _faded(music: np.ndarray) -> np.ndarray:
    """Fade the music in over its first quarter and out over its last, from and to a tenth of its amplitude."""
    at = (np.arange(len(music)) + 0.5) / len(music)
    return (music * (0.1 + 0.9 * np.clip(4 * np.minimum(at, 1 - at), 0, 1))).astype(np.float32)


class Condition(NamedTuple):
    """A change of the music after labelling, and the mixtures that it applies to."""

    pause: int = 0  # samples of silence between repeats
    change: Callable[[np.ndarray], np.ndarray] = np.asarray
    cast: Cast = EXPERIMENT  # source of the items


CONDITIONS = {
    "plain": Condition(),
    "out of step": Condition(OUT_OF_STEP),
    "filtered": Condition(change=_filtered),
    "faded": Condition(change=_faded),
    "all three": Condition(OUT_OF_STEP, lambda music: _faded(_filtered(music))),
}
CONDITIONS |= {
    "development": CONDITIONS["plain"]._replace(cast=DEVELOPMENT),
    "development, all three": CONDITIONS["all three"]._replace(cast=DEVELOPMENT),
}

MET = tuple(name for name, condition in CONDITIONS.items() if condition.cast is EXPERIMENT)
"""Conditions of the experiment, without those of the development mixtures."""


def mix(item: Item, smr_db: float | int, condition: str = "plain") -> Mixed:
    """Mix an item at a speech-to-music ratio (energies of the whole waveforms, in dB) under a condition."""
    pause, change, _ = CONDITIONS[condition]
    music = change(np.resize(np.pad(item.jingle, (0, pause)), item.speech.shape))
    gain = np.float32(scale_to_ratio(item.speech, music, smr_db))
    return Mixed(item.speech, gain * music, gain * item.jingle[: len(item.jingle) // 2])


# --- items ---------------------------------------------------------------------------------------------------------------


class _Speaker(NamedTuple):
    items: list[list[Recording]]
    training: list[Recording]


def _divide(recordings: list[Recording], n_items: int) -> _Speaker:
    """Split a speaker's utterances, in order of their paths: first those of the items, then those for training."""
    rest = sorted(recordings, key=lambda r: r.path)
    items: list[list[Recording]] = []
    for _ in range(n_items):
        one: list[Recording] = []
        while (more := next((r for r in rest if sum(o.duration for o in one) + r.duration <= ITEM_SECONDS), None)) is not None:
            if one and rest.index(more) > 0:  # the next utterance does not fit
                break
            one.append(more)
            rest.remove(more)
        items.append(one)
    training: list[Recording] = []
    while rest and sum(r.duration for r in training) < TRAINING_SECONDS:
        training.append(rest.pop(0))
    return _Speaker(items, training)


def load(folder: Path, cast: Cast = EXPERIMENT) -> list[Callable[[], Item]]:
    """Return a function for each item, in the order of the cast, that reads it when called.

    Raises:
        UserError: there is no manifest, or it has too little speech of a speaker or lacks a jingle.
    """
    recordings = data.read_manifest(folder)
    speakers = {}
    for name, n_items in cast.speakers.items():
        own = [r for r in recordings if r.category == "speech" and r.split_group == name]
        speakers[name] = _divide(own, n_items)
        if not speakers[name].training or not all(speakers[name].items):
            raise UserError(f"{folder} has too little speech of the group {name}, which the experiment needs.")
    listed = {r.path for r in recordings}
    absent = [name for name, _ in cast.jingles if folder / name not in listed]
    if absent:
        raise UserError(f"{folder} lacks {absent[0]}, which the experiment needs.")
    order = list(speakers)
    return [partial(_read, folder, speakers, order, *which) for which in _items(cast)]


def _items(cast: Cast) -> list[tuple[str, int, str, float]]:
    """Return, for each item, its speaker, its index among the speaker's items, its jingle and where that starts (s)."""
    spoken = [(name, n) for name, count in cast.speakers.items() for n in range(count)] * cast.rounds
    return [(*who, *cast.jingles[index % len(cast.jingles)]) for index, who in enumerate(spoken)]


def names(cast: Cast = EXPERIMENT) -> list[str]:
    """Return the names of the items without reading them."""
    return [_name(speaker, n, jingle) for speaker, n, jingle, _ in _items(cast)]


def speech_of(item: int, condition: str = "plain") -> int:
    """Return the index of an item's speech: items with the same speech over several jingles are not independent samples."""
    cast = CONDITIONS[condition].cast
    return item % (len(_items(cast)) // cast.rounds)


def unseen() -> list[int]:
    """Return the indices of the items of which neither speaker nor jingle is in `SEEN`."""
    return [n for n, name in enumerate(names()) if not any(seen in name for seen in SEEN)]


def _name(speaker: str, n: int, jingle: str) -> str:
    return f"{speaker} {n + 1} + {Path(jingle).stem}"


def _read(folder: Path, speakers: dict[str, _Speaker], order: list[str], name: str, n: int, jingle: str, begin: float) -> Item:
    parts = speakers[name].items[n]
    at = order.index(name)
    others = [order[(at + k) % len(order)] for k in (1, 2, 3)]
    own, theirs = _mono(speakers[name].training), [w for other in others for w in _mono(speakers[other].training)]
    transcripts = [r.transcript for r in parts]
    music = audio.read(folder / jingle, mono=True, sample_rate=RATE).samples[0]
    first = round(begin * RATE)
    cut = music[first : first + round(JINGLE_SECONDS * RATE)]
    speech = np.concatenate(_mono(parts))
    silence = round(ITEM_SECONDS * RATE) - len(speech)
    return Item(
        _name(name, n, jingle),
        np.pad(speech, (silence // 2, silence - silence // 2)),
        " ".join(transcripts) if all(transcripts) else "",
        np.pad(cut, (0, round(JINGLE_SECONDS * RATE) - len(cut))),
        {"Self": tuple(own), "All": (*own, *theirs), "Other": tuple(theirs)},
    )


def _mono(recordings: list[Recording]) -> list[np.ndarray]:
    return [audio.read(r.path, mono=True, sample_rate=RATE).samples[0] for r in recordings]
