"""Train and evaluate the idempotent masker that ships, and write its model card.

    python -m bayessep.masker_release DATA -o bayessep/weights --work FOLDER

Training runs, and is resumed, in FOLDER; it uses redistributable recordings only. The test is on the songs with stems of DATA,
beside some of the rows of `reproduce michelashvili2019`. It takes half an hour on one CPU core.

The recipe was chosen among four by songs made of other music and other speech (`singing`), not by these songs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bayessep import masked_songs, shipped, song_stems, unmatched
from bayessep.detector_data import Item, seconds_of
from bayessep.detector_release import main, sources_of
from bayessep.masked_songs import CODE_POWER, NAME, Masker
from bayessep.michelashvili2019 import refuse_tested, tested
from bayessep.michelashvili2019_rows import ALL, BLUNTER, BUDGETS, IDEAL, MIXTURE, NMF, QUARTER, SHARPER, Song, Work, by
from bayessep.michelashvili2019_tables import Results
from bayessep.models import idempotent_masker, masker_training
from bayessep.models.idempotent_masker import Generator, Parts
from bayessep.singing import LOUDER
from bayessep.train import Progress
from bayessep.unmatched import POWER, RATE, Recipe

RECIPE = dataclasses.replace(
    BUDGETS["full"].recipe, varied=True, whole=True, quieter=6.0, identities=0.1, epochs=8
)
BUDGET = dataclasses.replace(BUDGETS["full"], recipe=RECIPE)
RUNNING = "masker, running statistics"
MASKERS: dict[str, dict[str, Any]] = {
    ALL: {"own": True}, RUNNING: {}, BLUNTER: {"own": True, "power": 1.0}, SHARPER: {"own": True, "power": CODE_POWER},
}  # fmt: skip
"""Settings of the masker that ships, and of others beside it."""
ROWS = {
    ALL: f"as it ships: blocks are normalised by their own statistics, masks to the power {1 / POWER:.1f}",
    RUNNING: "running statistics, as in the authors' code",
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
    lines = []
    for row in ROWS:
        takes = by(Masker(of.config, rows.masker(), **MASKERS[row])) if row in MASKERS else rows.row(row)[0]
        for n, song in enumerate(songs):
            progress(row, n, len(songs), float("nan"))
            lines.append({"row": row, "song": song.listed.name, "group": song.listed.group} | tested(song, takes))
    found = Results(lines)
    figures: dict[str, Any] = {"songs": len(songs), "sung": len(set(found.groups.values()))}
    figures["changes"] = changes(of, rows.masker(), songs)
    figures["scores"] = {
        row: {name: [found.median(row, name), *found.interval(row, name)] for name in ("SDR", "SIR", "SAR")} for row in ROWS
    }
    figures["artists"] = len({song.listed.artist for song in songs})
    figures["leads"] = {row: found.lead(ALL, row, "SDR")[1:] for row in (NMF, QUARTER, RUNNING)}
    figures["sources"] = sources_of([r for own in used.values() for r in own])
    figures["minutes"] = {what: seconds_of(own, RATE) / 60 for what, own in sounds._asdict().items()}
    figures["minutes"] |= {kind: sum(r.duration for r in own) / 60 for kind, own in used.items()}
    about = {"recipe": dataclasses.asdict(BUDGET.recipe), "sources": figures["sources"]}
    weights = masked_songs.weights_of(Masker(of.config, rows.masker(), **MASKERS[ALL]), **about)
    shipped.publish(NAME, weights, card(figures), output)
    (work / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def changes(recipe: Recipe, generator: Parts, songs: Sequence[Song]) -> dict[str, float]:
    """Measure on songs with stems what the masker changes of the accompaniment and of its own output, and what it removes.

    These are `masker_training.measure`'s changed_music, changed_twice and taken, means over clips side by side.
    """
    config = recipe.config
    parts = [[Item(s.listed.name, s.listed.group, of(s)) for s in songs] for of in (lambda s: s.mixture, lambda s: s.truth[1])]
    found, extents = [], [[unmatched.extent_of(item, config) if recipe.whole else None for item in of] for of in parts]
    for clip in unmatched.clips_of(parts[1], config):
        own = (extent[clip.item] for extent in extents)
        images = (unmatched.image_of(of, clip, config, extent=extent)[None] for of, extent in zip(parts, own, strict=True))
        pair = masker_training.Batch(*images)
        found.append(jax.device_get(masker_training.measure(config, generator, pair, MASKERS[ALL]["own"])))
    return {name: float(np.mean([one[name] for one in found])) for name in ("changed_music", "changed_twice", "taken")}


def card(figures: dict[str, Any]) -> str:
    """Model card, in Markdown."""
    recipe, lasting, changed = BUDGET.recipe, figures["minutes"], figures["changes"]
    config = recipe.config
    whose = "their recording" if recipe.whole else "themselves"
    averaged = "The weights are a moving average over steps." if recipe.average else ""
    rows = []
    for row, name in ROWS.items():
        scores = figures["scores"][row].values()
        said = (
            "–" if np.isnan(median) else "∞" if median > 100 else f"{median:.1f} ({low:.1f} to {high:.1f})"
            for median, low, high in scores
        )
        rows.append(f"| {name} | {' | '.join(said)} |")
    leads = {row: f"{low:+.1f} to {high:+.1f}" for row, (low, high) in figures["leads"].items()}
    return f"""# {NAME}

Separates vocals from songs: `bayessep separate SONG --method {NAME}`. speech.wav holds the vocals, music.wav the accompaniment.

**Licence.** CC BY-SA 4.0, as some of the training data requires.

- The masking network of paper 002 (Michelashvili et al., 2019) in the preset small:
  {idempotent_masker.size_of(Generator, config):,} parameters (the paper's has 11,127,937), images of {config.frames} frames and
  {config.bins} bins, {config.frames * config.hop / RATE:.1f} s, at {RATE} Hz.
- Trained on songs and on music: {config.listening} steps of discriminator pre-training on songs
  against music, then {recipe.epochs * recipe.steps_per_epoch} steps of all networks, with {recipe.identities:g} times the authors'
  weights of R1 to R4, on clips {"at random speeds, " * recipe.varied}normalised by {whose}. {averaged}
  Recipe and normalisation were chosen by synthetic songs of other music and other speech.
- Made by `python -m bayessep.masker_release DATA -o bayessep/weights --work FOLDER`.

## Evaluation

{figures["songs"]} excerpts of {figures["sung"]} real songs with stems; neither the songs nor their artists are in the training.
Decibels of the vocals, image metrics in windows of 30 s every 15 s; medians over excerpts, 95 % intervals by bootstrap over songs.
The songs are by {figures["artists"]} artist{"s" * (figures["artists"] > 1)}: intervals say nothing of others, nor of other
trainings. The lead in SDR, excerpt by excerpt (95 %): {leads[NMF]} dB over NMF, {leads[QUARTER]} over a quarter of the
mixture, {leads[RUNNING]} over running statistics. The paper's network, trained for days on a hundred songs, has
3.2 dB SDR and 14.2 dB SIR on MUSDB18. An estimate of nothing has an SDR of 0 dB.

| | SDR | SIR | SAR |
|---|---:|---:|---:|
{chr(10).join(rows)}

Of these songs, it changes the accompaniment by {100 * changed["changed_music"]:.1f} % (L1 of compressed magnitudes, masks as they
are), and its own output for the mixture by {100 * changed["changed_twice"]:.1f} %; it removes {100 * changed["taken"]:.1f} % of the
mixtures.

## Training data

{lasting["songs"]:.0f} min of real songs, {lasting["music"]:.0f} min of instrumental music, and
{lasting["mixtures"] - lasting["songs"]:.0f} min of synthetic songs: {lasting["speech"]:.0f} min of speech, shifted to notes
and slowed down, over that music, from {-LOUDER[0] + recipe.quieter:g} dB below it to {LOUDER[1] - recipe.quieter:g} dB above.
No recording has a licence with NC or ND.

{chr(10).join(f"- {line}" for line in figures["sources"])}

## Limits

Much of the vocals stays in the accompaniment, and some of the accompaniment is in the vocals: see the ideal mask above. It was
trained on few singers and mostly on synthetic singing: choirs, screams and voices with much reverberation stay in the
accompaniment, and lead instruments that glide like a voice are taken for one. It works at {RATE} Hz: above
{RATE // 2000} kHz all is accompaniment. Both stems keep the mixture's phase.
"""


if __name__ == "__main__":
    main(release, __doc__)
