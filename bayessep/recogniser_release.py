"""Train and evaluate the shipped recogniser, and write its weights and model card.

    python -m bayessep.recogniser_release DATA -o bayessep/weights --work FOLDER

It is the mixture ASR of the full run of `reproduce woo2020`, whose folder may be given as FOLDER: what is trained there is not
trained again. Weights are published in half precision and evaluated as shipped.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bayessep import recognisers, recognition, shipped, spoken, vocabulary, woo2020_recognition
from bayessep.detector_data import seconds_of
from bayessep.detector_release import main
from bayessep.models import attention_asr
from bayessep.recogniser_training import RATE
from bayessep.recognisers import ATTENTION, AttentionRecogniser
from bayessep.train import Progress
from bayessep.woo2020 import genres
from bayessep.woo2020_recognition import CONDITIONS, Networks, at, divide, seeded, utterances

BUDGET = "full"


def release(data: Path, work: Path, output: Path, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Train and evaluate, write the weights and their card to `output`, and return the figures of the card."""
    own = seeded(woo2020_recognition.BUDGETS[BUDGET], 0)
    parts = divide(data, own.clean.words)
    networks = Networks(own, parts, work, progress)
    trained = networks.mixture()
    config = own.mixture.config(vocabulary.size_of(networks.words))
    listed = spoken.listed(data, only=own.clean.words, redistributable=True)
    known = {one.group for one in parts.learn.speech}
    facts = {"recipes": [asdict(recipe) for recipe in (own.clean, own.mixture)], "words": " ".join(own.clean.words)}
    whole = recognisers.weights_of(config, trained.state, networks.words, own.clean.seconds, networks.most, facts)
    weights = shipped.halved(whole)
    ships = recognisers.recogniser_of(weights)
    every = list(utterances(own.clean, parts.test, genres(data), own.each, 0))
    scores: dict[str, Any] = {}
    for n, ratio in enumerate(CONDITIONS):
        counts = [errors(ships, at(one, ratio), one.words) for one in every]
        scores["clean" if ratio is None else f"{ratio:g} dB"] = rate(counts)
        progress("as it ships", n + 1, len(CONDITIONS), float("nan"))
    others = spoken.read(one for one in listed if one.group not in known)  # speakers with too few recordings for training
    figures = {
        "scores": scores,
        "count": len(every),
        "words": sum(len(one.words.split()) for one in every),
        "strangers": [rate([errors(ships, one.samples, one.words) for one in others]), sum(len(o.words.split()) for o in others)],
        "recordings": {name: len(part.speech) for name, part in parts._asdict().items()},
        "speakers": len(known),
        "music": {name: round(seconds_of(part.music, RATE) / 60, 1) for name, part in parts._asdict().items()},
        "licences": sorted({one.licence for one in listed if one.group in known}),
        "parameters": attention_asr.parameter_count(config),
        "steps": [r.epochs * r.steps_per_epoch for r in (own.clean, own.mixture)],
    }
    shipped.publish(ATTENTION, weights, card(figures), output)
    (work / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def errors(recogniser: AttentionRecogniser, speech: np.ndarray, words: str) -> recognition.WordErrors:
    """Count the word errors of a recogniser on an utterance."""
    return recognition.word_errors(words, " ".join(word.word for word in recogniser.recognise(speech)))


def rate(counts: list[recognition.WordErrors]) -> float | None:
    """Return the word error rate in per cent; None if there are no words."""
    words = sum(one.words for one in counts)
    return round(100 * sum(one.errors for one in counts) / words, 1) if words else None


def card(figures: dict[str, Any]) -> str:
    """Return the text of the model card."""
    heads, rates = zip(*figures["scores"].items(), strict=True)
    wrong, said = figures["strangers"]
    unknown = f"Of {said} words by other speakers, {wrong} % are wrong." if said else "Other speakers were not tested."
    clean, mixture = figures["steps"]
    licences = "\n".join(f"- {licence}" for licence in figures["licences"])
    return f"""# {ATTENTION}

Recognises digits, zero to nine, over music: `bayessep transcribe --recogniser {ATTENTION}`. It knows no other word.

**Licence.** CC BY-SA 4.0, as the training data requires.

- The recogniser of paper 001 (Woo et al., 2020) in the preset small: {figures["parameters"]:,} parameters in half precision,
  whose labels are characters.
- Trained for {clean} steps on clean speech, then for {mixture} on speech with music at 0 dB ± 5 dB.
- Made by `python -m bayessep.recogniser_release DATA -o bayessep/weights --work FOLDER`.

## Evaluation

Word error rate in per cent on {figures["count"]} utterances of up to five digits ({figures["words"]} words), made of
{figures["recordings"]["test"]} recordings that are not in the training **by the {figures["speakers"]} speakers who are**, with
{figures["music"]["test"]} min of real music by artists who are not:

| | {" | ".join(heads)} |
|---|{"---:|" * len(heads)}
| as it ships | {" | ".join(f"{value:.1f}" for value in rates)} |

{unknown}

## Training data

{figures["recordings"]["learn"]} recordings of single digits by {figures["speakers"]} speakers (the Free Spoken Digit Dataset),
joined into utterances and played faster or slower, with {figures["music"]["learn"]} min of music by other artists, mixed
anew for every step; a further {figures["recordings"]["held"]} recordings for validation. No recording has a licence with NC or ND:
the music is that of [conv-tasnet](conv-tasnet.md), listed on its card, and the licence of the speech is

{licences}

## Limits

It outputs digits whatever the input: it takes other words and noises for digits, too. Speakers other than the {figures["speakers"]}
of the training are recognised far worse. In training, pauses between words were at most
{spoken.GAPS[1]:g} s.
"""


if __name__ == "__main__":
    main(release, __doc__)
