"""General templates of speech and music, learned from other recordings, for recordings where one of them never sounds alone.

They are in `weights/general.safetensors`; its model card beside it names the recordings and their licences. To make the file again
(ten minutes or so on two cores):

    python -m bayessep.general DATA -o bayessep/weights
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bayessep import audio, data, gamma, preparation, separators, shipped
from bayessep.data import Recording
from bayessep.models import jingle_mixture
from bayessep.separators import Trained
from bayessep.settings import Settings
from bayessep.shipped import Weights

MODEL = "general"
RATE = 16000  # Hz, of the training audio
STRENGTH = 0.1  # prior strength: share of the training evidence that the templates keep against a recording


class Templates(NamedTuple):
    """Gamma distributions of the template spectra on a grid of frequencies."""

    mean: Float[np.ndarray, "B F"]
    shape: Float[np.ndarray, "B F"]
    frequencies: Float[np.ndarray, " F"]  # Hz
    excitation: Float[np.ndarray, " 2"]  # shape and scale of the prior of the excitations


def templates(what: str) -> Templates:
    """Read the templates of ``speech`` or ``music``.

    Raises:
        UserError: the file is missing, or differs from the published one.
    """
    held = shipped.read(MODEL).arrays
    mean, shape = (held[f"{what}.{name}"].astype(np.float32) for name in ("mean", "shape"))
    return Templates(mean, shape, held["frequencies"], held[f"{what}.excitation"])


def trained(what: str, frequencies: Float[np.ndarray, " F"], strength: float = STRENGTH) -> Trained:
    """Return general templates at the bins of a recording, in the form that `separators.train_templates` returns.

    `strength` scales their weight as a prior.
    """
    own = templates(what)

    def at(rows: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(frequencies, own.frequencies, row) for row in rows])

    width = (frequencies[1] - frequencies[0]) / (own.frequencies[1] - own.frequencies[0])
    mean = jnp.asarray(np.maximum(at(own.mean) * width, 1e-9), jnp.float32)
    shape = jnp.asarray(np.maximum(at(own.shape) * strength, 0.1), jnp.float32)
    prior = jingle_mixture.priors(len(frequencies), 1.0, n_bases=len(mean))
    excitation = gamma.Gamma(*(jnp.full((1, 1), value, jnp.float32) for value in own.excitation))
    posterior = gamma.Gamma(shape, mean / shape)
    return Trained(posterior, prior._replace(excitations=excitation))


SETTINGS = {"model": "Gamma-Poisson NMF", "rate": RATE, "strength": STRENGTH}
"""Settings stored in the file."""

# --- learning -------------------------------------------------------------------------------------------------------------

BASES = 80
SECONDS = {"speech": 5.0, "music": 15.0}  # at most, from the middle of each recording
_FREE = ("CC BY 4.0", "CC BY 3.0", "CC0", "Public domain")  # licences that require attribution at most
HELD_OUT = (
    "ljspeech", "vctk", "mfa", "librispeech-1998", "librispeech-2414", "librispeech-2609", "librispeech-1688",
    "vibe_ace", "sugar_plum_fairy", "house_in_a_forest", "creativecommons", "fsdd", "ami",
)  # fmt: skip
"""Recordings that are left out: the test data of `tests.benchmarks.cleaning`, and recordings of digits and of meetings."""


def chosen(folder: Path) -> dict[str, list[Recording]]:
    """Select the training recordings from a folder with a manifest: one for each speaker, and music without singing."""
    free = [
        r for r in data.read_manifest(folder)
        if r.licence.startswith(_FREE) and not any(name in f"{r.split_group} {r.path.name}" for name in HELD_OUT)
    ]  # fmt: skip
    speech = {r.split_group: r for r in free if r.category == "speech"}
    music = [r for r in free if r.category == "music" or (r.category == "stems" and "accompaniment" in r.path.name)]
    return {"speech": list(speech.values()), "music": music}


def _learn(recordings: Sequence[Recording], seconds: float, seed: int) -> tuple[Trained, np.ndarray]:
    settings = Settings(bases=BASES, seed=seed, training_sweeps=80)
    window = preparation.window_of(settings, RATE)
    n_bins = preparation.modelled_bins(window, RATE, settings.max_frequency)
    frames = []
    for r in recordings:
        samples = audio.read(r.path, mono=True, sample_rate=RATE).samples[0]
        middle = max(0, (len(samples) - round(seconds * RATE)) // 2)
        own = preparation.stack([samples[middle : middle + round(seconds * RATE)]], window, n_bins)
        frames.append(own * (settings.level / own.mean()))
    width = RATE / window.n_fft
    return separators.train_templates(np.concatenate(frames), settings), np.arange(n_bins) * width


def main() -> None:
    """Learn the templates of both, write the file, and print the sources that its card lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with a manifest.csv")
    parser.add_argument("-o", "--output", type=Path, default=shipped.FOLDER)
    given = parser.parse_args()
    tensors: dict[str, np.ndarray] = {}
    for what, recordings in chosen(given.data).items():
        found, frequencies = _learn(recordings, SECONDS[what], 0)
        mean, shape = np.asarray(gamma.mean(found.templates)), np.asarray(found.templates.shape)
        tensors[f"{what}.mean"], tensors[f"{what}.shape"] = mean.astype(np.float32), np.minimum(shape, 3e4).astype(np.float16)
        tensors[f"{what}.excitation"] = np.array([np.ravel(v)[0] for v in found.prior.excitations], np.float32)
        tensors["frequencies"] = frequencies.astype(np.float32)
        sources = sorted({f"{r.source.rsplit('/', 1)[0]} ({r.licence})" for r in recordings})
        print(json.dumps({what: len(recordings), "sources": sources}, indent=1), flush=True)
    shipped.publish(MODEL, Weights(tensors, SETTINGS), (shipped.FOLDER / f"{MODEL}.md").read_text(encoding="utf-8"), given.output)


if __name__ == "__main__":
    main()
