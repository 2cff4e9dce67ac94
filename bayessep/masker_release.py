"""Train and evaluate the idempotent masker that ships, and write its model card.

    python -m bayessep.masker_release DATA -o bayessep/weights --work FOLDER

Training runs, and is resumed, in FOLDER; it uses redistributable recordings only. The test is on the songs with stems of DATA,
beside some of the rows of `reproduce michelashvili2019`. It takes an hour on one CPU core.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from bayessep import masked_songs, shipped, song_stems, unmatched
from bayessep.detector_data import seconds_of
from bayessep.detector_release import main, sources_of
from bayessep.masked_songs import NAME
from bayessep.michelashvili2019 import refuse_tested, tested
from bayessep.michelashvili2019_rows import ALL, BLUNTER, BUDGETS, IDEAL, MIXTURE, NMF, QUARTER, SHARPER, Song, Work
from bayessep.michelashvili2019_tables import Results
from bayessep.models import idempotent_masker
from bayessep.models.idempotent_masker import Generator
from bayessep.train import Progress
from bayessep.unmatched import POWER, RATE

BUDGET = dataclasses.replace(BUDGETS["full"], recipe=dataclasses.replace(BUDGETS["full"].recipe, epochs=12))
ROWS = {
    ALL: f"as it ships, masks to the power {1 / POWER:.1f}",
    BLUNTER: "masks as they are",
    SHARPER: "masks to the power 9, as in the authors' code",
    NMF: "NMF, with templates of the music that is learned from",
    IDEAL: "ideal ratio mask",
    QUARTER: QUARTER,
    MIXTURE: "the mixture",
}


def release(data: Path, work: Path, output: Path, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Train and evaluate, write the weights and their card to `output`, and return the figures of the card."""
    used = unmatched.listed(data, songs=BUDGET.recipe.songs, redistributable=True)
    of = BUDGET.recipe
    sounds = unmatched.read_unmatched(data, songs=of.songs, quieter=of.quieter, seed=of.seed, redistributable=True)
    songs = [Song(one, np.concatenate(song_stems.read(one, RATE))) for one in song_stems.listed(data)]
    refuse_tested(data, sounds, [song.listed for song in songs])
    rows = Work(work, sounds, [lambda song=song: song for song in songs], BUDGET, progress)
    lines, learned = [], {}
    for row in ROWS:
        takes, learned[row] = rows.row(row)
        for n, song in enumerate(songs):
            progress(row, n, len(songs), float("nan"))
            lines.append({"row": row, "song": song.listed.name, "group": song.listed.group} | tested(song, takes))
    found = Results(lines)
    figures: dict[str, Any] = {"learned": learned[ALL], "songs": len(songs), "sung": len(set(found.groups.values()))}
    figures["scores"] = {
        row: {name: [found.median(row, name), *found.interval(row, name)] for name in ("SDR", "SIR", "SAR")} for row in ROWS
    }
    _, *figures["lead"] = found.lead(ALL, NMF, "SDR")
    figures["sources"] = sources_of([r for own in used.values() for r in own])
    figures["minutes"] = {what: seconds_of(own, RATE) / 60 for what, own in sounds._asdict().items()}
    figures["minutes"] |= {kind: sum(r.duration for r in own) / 60 for kind, own in used.items()}
    about = {"recipe": dataclasses.asdict(BUDGET.recipe), "sources": figures["sources"]}
    weights = masked_songs.weights_of(masked_songs.Masker(BUDGET.recipe.config, rows.masker()), **about)
    shipped.publish(NAME, weights, card(figures), output)
    (work / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def card(figures: dict[str, Any]) -> str:
    """Model card, in Markdown."""
    recipe, lasting, learned = BUDGET.recipe, figures["minutes"], figures["learned"]
    config = recipe.config
    rows = []
    for row, name in ROWS.items():
        scores = figures["scores"][row].values()
        said = ("–" if np.isnan(median) else f"{median:.1f} ({low:.1f} to {high:.1f})" for median, low, high in scores)
        rows.append(f"| {name} | {' | '.join(said)} |")
    low, high = figures["lead"]
    return f"""# {NAME}

Separates vocals from songs: `bayessep separate SONG --method {NAME}`. speech.wav holds the vocals, music.wav the accompaniment.

**Licence.** CC BY-SA 4.0, as some of the training data requires.

- The masking network of paper 002 (Michelashvili et al., 2019) in the preset small:
  {idempotent_masker.size_of(Generator, config):,} parameters (the paper's has 11,127,937), images of {config.frames} frames and
  {config.bins} bins, {config.frames * config.hop / RATE:.1f} s, at {RATE} Hz.
- Trained on songs and on music: {config.listening} steps of discriminator pre-training on songs
  against music, then {recipe.epochs * recipe.steps_per_epoch} steps of all networks, with the loss weights of the authors'
  code. The weights are a moving average over steps.
- Made by `python -m bayessep.masker_release DATA -o bayessep/weights --work FOLDER`.

## Evaluation

{figures["songs"]} excerpts of {figures["sung"]} real songs with stems; neither the songs nor their artists are in the training.
Decibels of the vocals, image metrics in windows of 30 s every 15 s; medians over excerpts, 95 % intervals by bootstrap over songs.
The lead over NMF in SDR lies between {low:+.1f} and {high:+.1f} dB. The paper's network, trained for days on a hundred songs, has
3.2 dB SDR and 14.2 dB SIR on MUSDB18. An estimate of nothing has an SDR of 0 dB.

| | SDR | SIR | SAR |
|---|---:|---:|---:|
{chr(10).join(rows)}

In validation clips, which overlap with training clips, it changes music by {100 * learned["changed_music"]:.1f} %
(L1 of compressed magnitudes), and its own output for a mixture by {100 * learned["changed_twice"]:.1f} %; it
removes {100 * learned["taken"]:.1f} % of mixtures.

## Training data

{lasting["songs"]:.0f} min of real songs, {lasting["music"]:.0f} min of instrumental music, and
{lasting["mixtures"] - lasting["songs"]:.0f} min of synthetic songs: {lasting["speech"]:.0f} min of speech, shifted to notes
and slowed down, over that music. No recording has a licence with NC or ND.

{chr(10).join(f"- {line}" for line in figures["sources"])}

## Limits

It was trained on few singers and mostly on synthetic singing: choirs, screams and voices with much reverberation stay in the
accompaniment, and lead instruments that glide like a voice are taken for one. It works at {RATE} Hz: above
{RATE // 2000} kHz all is accompaniment. Both stems keep the mixture's phase.
"""


if __name__ == "__main__":
    main(release, __doc__)
