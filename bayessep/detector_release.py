"""Train, calibrate and evaluate the shipped detector, and write its weights and model card.

    python -m bayessep.detector_release DATA -o bayessep/weights --work FOLDER

It is trained on those recordings of a manifest whose licences allow it, divided by split groups into a training set, a validation
set for early stopping and calibration, and a test set. Called again with the same --work, it resumes. It takes two to three hours
on two cores. If --work holds only the figures.json of an earlier call, the shipped weights are evaluated again, unchanged.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, special

from bayessep import audio, corpora, data, detection, detection_scores, detector_data, detector_scenes, shipped, timeline
from bayessep.broadcast import generate_broadcast
from bayessep.corpora import Sound
from bayessep.data import Recording
from bayessep.detection import LABELS, Calibration, Network, detect_samples
from bayessep.detector_data import Item, Items, about_parts, seconds_of
from bayessep.detector_scenes import Scene
from bayessep.detector_training import Recipe, divide, task
from bayessep.errors import UserError
from bayessep.models.detector_networks import STRIDE
from bayessep.models.speech_music_detector import State
from bayessep.timeline import BOTH, MUSIC, SPEECH
from bayessep.train import Progress, train

RECIPE = Recipe(
    network="frames", head="multi", feature="LMHPS-EF", neither=True, standardised=False, augment=True, plain=0.3, songs=True,
    dropout=0.15, rate=2e-3, average=0.999, each=12, crops=40, steps_per_epoch=240, epochs=20, patience=20, seed=0,
)  # fmt: skip

UNSUNG = replace(RECIPE, songs=False)
MEMBERS = (*(replace(RECIPE, seed=seed) for seed in range(5)), *(replace(UNSUNG, seed=seed) for seed in (0, 5)))
"""Ensemble whose logits are averaged. Songs in training make speech under louder music harder to detect, so two have none."""

FIGURES, TOLD = "figures.json", ("epochs", "best_epochs", "validation_losses")
"""File in --work with the figures of a release, and its keys that describe the training."""

SCENES, CALIBRATING = 120, 40
"""Number of one-minute scenes for testing, and for calibration, of each kind: as recorded and altered."""

PUBLISHED_MIXES = "musan-sm_hpss"
"""Split group of the mixtures published by the authors of paper 003: for testing only, never for training."""
_MIX = re.compile(r"sp_plus_mu_(-?\d+)db")
"""File name of one of these mixtures, with its ratio; their parts alone are named sp and mu."""


class Division(NamedTuple):
    """Recordings by purpose: training, validation and test; no split group is in two of them."""

    learn: Items
    held: Items
    test: Items
    sources: list[str]  # of training and validation recordings: origin and licence
    seconds: dict[str, float]


class _Music(NamedTuple):
    music: list[Item]


def division(folder: Path, *, music_alone: bool = False) -> Division:
    """Divide the recordings of a manifest; the test set is a fifth of them, plus what may not be redistributed.

    Args:
        folder: folder of the manifest.
        music_alone: leave its speech out, for callers that take speech from another folder.

    Raises:
        UserError: as `corpora.detector_recordings`, `corpora.folds` and `divide`; or the test set lacks speech or music.
    """
    kinds = (timeline.MUSIC,) if music_alone else (timeline.SPEECH, timeline.MUSIC)
    free, every = (
        [s for kind in kinds for s in getattr(corpora.detector_recordings(folder, redistributable=only, needed=kinds), kind)]
        for only in (True, False)
    )
    sounds: dict[Path, Sound] = {s.recording.path: s for s in every}
    passed_on = {s.recording.path for s in free}
    # Recordings under the GPL alone are dealt into folds with the rest, but not trained on: the weights are not under the GPL.
    dealt = [s.recording for path, s in sounds.items() if path in passed_on or corpora.is_under_gpl_alone(s.recording)]
    tested, *rest = corpora.folds([r for r in dealt if r.split_group != PUBLISHED_MIXES], 5)
    learned = [r for fold in rest for r in fold if r.path in passed_on]
    known = {r.split_group for fold in rest for r in fold}
    listed = {r.path for r in tested}
    tested += [s.recording for s in sounds.values() if s.recording.path not in listed and s.recording.split_group not in known]

    def items(recordings: Sequence[Any]) -> Items:
        by = {
            what: [sounds[r.path] for r in recordings if r.category == what] for what in (timeline.SPEECH, timeline.MUSIC)
        }
        return Items(*(detector_data.read_items(by[what], pauses=True) for what in (timeline.SPEECH, timeline.MUSIC)))

    for kind in kinds:
        if not any(r.category == kind for r in tested):
            problem = f"{folder}: a fifth of the recordings is kept to measure with, and there is no {kind} in it"
            raise UserError(f"{problem}; give recordings of more speakers and artists.")
    own = items(learned)
    if music_alone:
        learn, held = (Items([], part.music) for part in divide(_Music(own.music), 0.15, RECIPE.seed))
    else:
        learn, held = divide(own, 0.15, RECIPE.seed)
    learn = Items(*(own + more for own, more in zip(learn, _generated(), strict=True)))
    test = items(tested)
    parts = {"learn": learn, "held": held, "test": test}
    seconds = {
        f"{name} {what}": seconds_of(own, RECIPE.front.sample_rate)
        for name, part in parts.items() for what, own in zip(Items._fields, part, strict=True)
    }  # fmt: skip
    return Division(learn, held, test, sources_of(learned), seconds)


def sources_of(recordings: Sequence[Recording]) -> list[str]:
    """Return one line per origin and licence, with the total duration of its recordings."""
    sources: dict[str, float] = defaultdict(float)
    for r in recordings:
        sources[f"{r.source.rsplit(':', 1)[-1].split('/')[0]}/{r.source.split('/')[1]}: {r.licence}"] += r.duration
    return [f"{source} ({seconds / 60:.1f} min)" for source, seconds in sorted(sources.items())]


GENERATED = range(1001, 1013)
"""Seeds of the generated broadcasts that are added to the training set."""


def _generated() -> Items:
    """Generate voices and music that differ from those of the demo, the tests and the notebooks."""
    made = [(n, generate_broadcast(n, seconds=1.0, jingle_seconds=6.0 + n % 7)) for n in GENERATED]
    speech = [detector_data.Item(f"generated speech {n}", f"generated {n}", one.training_speech) for n, one in made]
    return Items(speech, [detector_data.Item(f"generated music {n}", f"generated {n}", one.jingle) for n, one in made])


# --- evaluation ----------------------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """Truth and detector output for scenes, in frames of 40 ms, one scene after another."""

    truth: list[str]
    found: list[str]  # labels of segments
    raw: list[str]  # labels from thresholded frame probabilities
    speech: Float[np.ndarray, " T"]
    music: Float[np.ndarray, " T"]
    smr_db: Float[np.ndarray, " T"]
    spoken: Bool[np.ndarray, " T"]
    played: Bool[np.ndarray, " T"]


def scenes(items: Items, count: int, seconds: float, seed: int, *, augment: bool) -> list[Scene]:
    """Draw evaluation scenes; without `augment`, the sound is as recorded."""
    rate = RECIPE.front.sample_rate
    rngs = [np.random.default_rng([seed, n]) for n in range(count)]
    return [detector_scenes.draw_scene(items, seconds, rate, rng, augment=augment) for rng in rngs]


def published_scenes(folder: Path) -> list[Scene]:
    """Read the mixtures published by the authors of paper 003, made of MUSAN, and the speech and the music they are made of.

    Each counts as one class throughout, pauses of the speaker included. Empty if the folder has none of them.
    """
    made = []
    for r in data.read_manifest(folder):
        name = r.path.stem
        mixture = _MIX.fullmatch(name)
        if r.split_group == PUBLISHED_MIXES and (mixture or name in ("sp", "mu")):
            samples = audio.read(r.path, mono=True, sample_rate=RECIPE.front.sample_rate).samples[0]
            spoken, played = (np.full(len(samples), name != other) for other in ("mu", "sp"))
            made.append(Scene(samples, spoken, played, float(mixture[1]) if mixture else 0.0))
    return made


def most_of(items: Sequence[Item]) -> str:
    """Return the share of the largest split group in the total duration, in per cent."""
    seconds: dict[str, int] = defaultdict(int)
    for item in items:
        seconds[item.group] += len(item.samples)
    return f"{100 * max(seconds.values()) / sum(seconds.values()):.0f} %"


def truth_of(scene: Scene, times: Float[np.ndarray, " T"]) -> list[str]:
    """Return the true labels at these times, in seconds."""
    return _named(*scene.on(times * RECIPE.front.sample_rate))


def _named(speech: Bool[np.ndarray, " T"], music: Bool[np.ndarray, " T"]) -> list[str]:
    return [LABELS[n] for n in detector_scenes.classes(speech, music)]


def hear(made: Sequence[Scene], network: Network) -> Heard:
    """Run the detector on each scene."""
    parts: dict[str, list] = defaultdict(list)
    for scene in made:
        result = detect_samples(scene.samples, network)
        times = (np.arange(len(result.speech)) + 0.5) * result.hop
        truth = truth_of(scene, times)
        parts["truth"] += truth
        parts["found"] += timeline.labels_at(result.segments, times)
        parts["raw"] += _named(result.speech > 0.5, result.music > 0.5)
        parts["speech"].append(result.speech)
        parts["music"].append(result.music)
        parts["smr_db"].append(np.full(len(times), scene.smr_db))
    truth = np.array(parts["truth"])
    speech, music, smr_db = (np.concatenate(parts[name]) for name in ("speech", "music", "smr_db"))
    spoken, played = np.isin(truth, (SPEECH, BOTH)), np.isin(truth, (MUSIC, BOTH))
    return Heard(parts["truth"], parts["found"], parts["raw"], speech, music, smr_db, spoken, played)


def scores(heard: Heard) -> dict[str, Any]:
    """Compute F1 per class and of speech and music at all, overlap recall by ratio, and calibration errors.

    The F1 of a class that is never true is None.
    """
    document: dict[str, Any] = {}
    for name, labels in (("segments", heard.found), ("frames", heard.raw)):
        found = detection_scores.class_scores(heard.truth, labels, LABELS)
        three = detection_scores.class_scores(heard.truth, labels, (MUSIC, SPEECH, BOTH))
        f1 = zip(LABELS, found.f1, found.support, strict=True)
        rounded = {label: round(100 * float(x), 1) if occurs else None for label, x, occurs in f1}
        document[name] = {"f1": rounded, "average_f1": round(100 * three.true_f1, 2)}
        for what, members, true in (("speech", (SPEECH, BOTH), heard.spoken), ("music", (MUSIC, BOTH), heard.played)):
            said = np.isin(np.array(labels), members)
            binary = detection_scores.class_scores(true, said, (True,))
            document[name][f"{what}_f1"] = round(100 * float(binary.f1[0]), 1)
    overlap, found = np.array(heard.truth) == BOTH, np.array(heard.found) == BOTH
    ratios = {"-5 to 0": (-5, 0), "1 to 5": (1, 5), "6 to 10": (6, 10), "11 to 15": (11, 15), "16 to 20": (16, 20)}
    document["overlap_recall"] = {
        name: round(100 * float(found[overlap & (heard.smr_db >= low) & (heard.smr_db <= high)].mean()), 1)
        for name, (low, high) in ratios.items()
        if (overlap & (heard.smr_db >= low) & (heard.smr_db <= high)).any()
    }
    for what, p, true in (("speech", heard.speech, heard.spoken), ("music", heard.music, heard.played)):
        document[f"{what}_ece"] = round(float(detection_scores.reliability(p, true).error), 4)
    return document


def calibration(made: Sequence[Scene], network: Network) -> Calibration:
    """Fit the calibration that maximises the likelihood of the true labels."""
    front = network.recipe.front
    frame = STRIDE * front.hop
    said, true = [], []
    for scene in made:
        logits = detection.logits_of([detection.levelled(scene.samples, network)], network)[: len(scene.samples) // frame]
        times = (np.arange(len(logits)) + 0.5) * frame / front.sample_rate
        said.append(logits)
        true += [LABELS.index(label) for label in truth_of(scene, times)]
    logits = np.concatenate(said).astype(np.float64)  # finite differences in single precision give no usable gradient

    def read(x: np.ndarray) -> Calibration:  # the last bias is 0: a constant added to all changes nothing
        return Calibration(float(np.exp(x[0])), (*map(float, x[1:]), 0.0))

    def loss(x: np.ndarray) -> float:
        scaled = logits / read(x).temperature + np.array(read(x).bias)
        return -float(special.log_softmax(scaled, axis=-1)[np.arange(len(true)), true].mean())

    found: Any = optimize.minimize(loss, np.zeros(len(LABELS)), method="L-BFGS-B", bounds=((-1.5, 2.0), *((-4.0, 4.0),) * 3))
    return read(found.x)


# --- release -------------------------------------------------------------------------------------------------------------


def release(folder: Path, work: Path, output: Path, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Train, calibrate and evaluate, write the weights and their card to `output`, and return the figures of the card."""
    parts = division(folder)
    states, figures, found = _trained(parts, work, progress)
    raw = detection.network_of(detection.weights_of(RECIPE, states))
    if found is None:
        known = [scene for augment in (False, True) for scene in scenes(parts.held, CALIBRATING, 60.0, 11, augment=augment)]
        found = calibration(known, raw)
    each = [{"seed": member.seed, "songs": member.songs} for member in MEMBERS]  # where members differ
    weights = detection.weights_of(RECIPE, states, found, each=each)
    network = detection.network_of(weights)
    plain, altered = (scenes(parts.test, SCENES, 60.0, 12, augment=augment) for augment in (False, True))
    heard, hardened = hear(plain, network), hear(altered, network)
    untempered, published = scores(hear(plain, raw)), published_scenes(folder)
    figures |= {"as_recorded": scores(heard), "altered": scores(hardened)}
    figures["published"] = scores(hear(published, network)) if published else None
    figures["before_calibration"] = {name: untempered[name] for name in ("speech_ece", "music_ece")}
    figures |= {"temperature": round(found.temperature, 3), "bias": [round(b, 3) for b in found.bias]}
    figures |= {"sources": parts.sources}
    figures["seconds"] = {what: round(seconds) for what, seconds in parts.seconds.items()}
    figures["most"] = dict(zip(Items._fields, map(most_of, parts.test), strict=True))
    shipped.publish(detection.MODEL, weights, card(figures), output)
    pairs = {"speech": (heard.speech, heard.spoken), "music": (heard.music, heard.played)}
    curves = {what: detection_scores.reliability(p, true) for what, (p, true) in pairs.items()}
    from bayessep import plots, plots_detection

    (output / f"{detection.MODEL}.png").write_bytes(plots.png(plots_detection.reliability_figure(curves)))
    (work / FIGURES).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def _trained(parts: Division, work: Path, progress: Progress) -> tuple[list[State], dict[str, Any], Calibration | None]:
    """Return the networks, facts about their training, and their calibration if they are the shipped ones."""
    if (work / FIGURES).is_file() and not (work / "1").is_dir():
        told = json.loads((work / FIGURES).read_text(encoding="utf-8"))
        ships = detection.shipped_network()
        return list(ships.states), {name: told[name] for name in TOLD if name in told}, ships.calibration
    about = {"data": about_parts(parts)}
    members = []
    for n, one in enumerate(MEMBERS):
        named = f"training {n + 1} of {len(MEMBERS)}"
        made = task(one, parts.learn, parts.held, about)
        members.append(train(made, one.training, work / str(n + 1), progress=lambda _, *at, named=named: progress(named, *at)))
    of = zip(TOLD, *((m.epochs, m.epoch, round(m.loss, 4)) for m in members), strict=True)
    return [member.state for member in members], {name: values for name, *values in of}, None


def card(figures: dict[str, Any]) -> str:
    """Return the text of the model card."""
    plain, altered, minutes = figures["as_recorded"], figures["altered"], {k: v / 60 for k, v in figures["seconds"].items()}

    def row(name: str, of: dict[str, Any]) -> str:
        f1 = ("–" if (x := of["f1"][label]) is None else f"{x:.1f}" for label in LABELS)
        return f"| {name} | {' | '.join(f1)} | {of['average_f1']:.2f} | {of['speech_f1']:.1f} | {of['music_f1']:.1f} |"

    def recall(of: dict[str, Any]) -> str:
        return ", ".join(f"{ratio} dB {value:.0f} %" for ratio, value in of["overlap_recall"].items())

    rows = [
        row("segments, as recorded", plain["segments"]), row("frames, as recorded", plain["frames"]),
        row("segments, altered", altered["segments"]), row("frames, altered", altered["frames"]),
    ]  # fmt: skip
    others = ""
    if published := figures["published"]:
        rows += [row("segments, published", published["segments"]), row("frames, published", published["frames"])]
        others = f"""
“Published” are mixtures that the authors of paper 003 made of MUSAN, and the speech and the music in them; no file of them is in
the training. A speaker's pauses count as speech. There is far less music alone than speech and mixtures, so that few of their
frames have to be called music for a low F1. Recall of overlap there: {recall(published)}.
"""
    before = figures["before_calibration"]
    best = ", ".join(map(str, figures["best_epochs"]))
    sung = sum(member.songs for member in MEMBERS)
    bias = ", ".join(f"{number:.2f} ({label})" for number, label in zip(figures["bias"], LABELS, strict=True))
    sources = "\n".join(f"- {line}" for line in figures["sources"])
    return f"""# detector

Detects speech and music: `bayessep detect`, `bayessep clean`.

**Licence.** CC BY-SA 4.0, as some of the training data requires.

- {len(MEMBERS)} networks `frames`, whose logits are averaged, with multi-task heads on harmonic and percussive log-mel features
  (LMHPS-EF of paper 003): probabilities of music, speech, both and neither, every 40 ms. Trained for {RECIPE.epochs} epochs, of
  which the best were {best}, on scenes of which {100 * RECIPE.plain:.0f} % are as recorded and the others augmented.
- Recordings are first brought into the loudness range of unaltered scenes (`detection.loudness`), so their level does not matter.
- The training data hold little singing. So {sung} of the networks were trained with synthetic singing, speech shifted to notes,
  over half of their music.
- Made by `python -m bayessep.detector_release DATA -o bayessep/weights --work FOLDER`.

## Evaluation

On {SCENES} one-minute scenes, put together from {minutes["test speech"]:.1f} min of real speech and
{minutes["test music"]:.1f} min of real music by speakers and artists who are not in the training, with speech over music at -5 to
20 dB; “altered” scenes went through rooms, filters, noise and codecs. F1 in per cent of frames of 40 ms; “average” is over music,
speech and both, as in paper 003. One source accounts for {figures["most"]["speech"]} of the speech, and one for
{figures["most"]["music"]} of the music; in pauses of unaltered scenes there is noise 55 dB below the speech.

| | music | speech | both | silence | average | speech at all | music at all |
|---|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

Recall of overlap by ratio, segments, as recorded: {recall(plain)}.
{others}
Calibration: logits are divided by a temperature of {figures["temperature"]}, then {bias} are added; both were fitted on
{2 * CALIBRATING} scenes of recordings held out of training. Expected calibration error of P(speech) {plain["speech_ece"]:.3f} and
of P(music) {plain["music_ece"]:.3f} (before: {before["speech_ece"]:.3f} and {before["music_ece"]:.3f}); altered,
{altered["speech_ece"]:.3f} and {altered["music_ece"]:.3f}.

![Reliability](detector.png)

## Training data

{minutes["learn speech"]:.1f} min of speech and {minutes["learn music"]:.1f} min of music, among them {len(GENERATED)} synthetic
broadcasts; a further {minutes["held speech"]:.1f} min and {minutes["held music"]:.1f} min for validation and calibration. No
recording has a licence with NC or ND.

{sources}

## Limits

It was trained on {(minutes["learn speech"] + minutes["learn music"]) / 60:.1f} hours of sound.
Most often it mistakes unaccompanied singing for speech, and speech in loud noise for music.
Noise, applause and street sounds should count as silence, neither speech nor music, but no real ones were among the training
data: sounds of things and sustained noise are often taken for music, and long pauses with audible background noise for speech.
"""


Release = Callable[..., dict[str, Any]]
"""A function of recordings, work and weights folders that makes a release and returns the figures of its card."""


def main(release: Release = release, description: str | None = __doc__) -> None:
    """Make a release from the command line."""
    from bayessep.devices import use_cache
    from bayessep.terminal import Terminal

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with a manifest.csv")
    parser.add_argument("-o", "--output", type=Path, default=shipped.FOLDER)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training, gone on with")
    given = parser.parse_args()
    use_cache()
    with Terminal().working() as progress:
        figures = release(given.data, given.work, given.output, progress=progress)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
