"""Train and evaluate the separator that ships, and write its model card.

    python -m bayessep.separator_release DATA -o bayessep/weights --work FOLDER

This is the full run of `reproduce woo2020`, kept and resumed in FOLDER. Its time-domain weights are published in half precision,
and evaluated once more in that form. It takes a few hours on one CPU core.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bayessep import devices, neural, shipped, woo2020, woo2020_tables
from bayessep.detector_data import Items
from bayessep.detector_release import GENERATED, division, main, most_of
from bayessep.models import conv_tasnet
from bayessep.separator_training import task
from bayessep.train import Progress
from bayessep.woo2020 import BUDGETS, FREQUENCY, MIXTURE, RATIOS, TIME

BUDGET = "full"


def pace(network: str, items: Items, steps: int = 6) -> float:
    """Seconds per training step of a network on this machine: the median over `steps` steps without the first."""
    made = task(BUDGETS[BUDGET].recipes[network][0], items, items)
    state, spent = made.init(jax.random.key(0)), []
    for n in range(steps):
        batch, started = made.batch(n), time.perf_counter()
        state, found = made.step(state, batch, jax.random.key(n))
        jax.block_until_ready(found)
        spent.append(time.perf_counter() - started)
    return float(np.median(spent[1:]))


def release(data: Path, work: Path, output: Path, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Train and evaluate, write the weights and their card to `output`, and return the figures of the card."""
    parts, own = division(data), BUDGETS[BUDGET]
    lines = woo2020.run(work, data, BUDGET, progress=progress)
    made = {name: woo2020.trained(recipes, parts, work / name, progress) for name, recipes in own.recipes.items()}
    twice = woo2020.separator_of(own.recipes[TIME], made[TIME])._replace(both_signs=True)
    recipes = [dataclasses.asdict(recipe) for recipe in own.recipes[TIME]]
    weights = shipped.halved(neural.weights_of(twice, recipes=recipes, sources=parts.sources))
    ships = neural.separator_of(weights)
    for n, one in enumerate(woo2020.mixtures(parts.test, woo2020.genres(data), own.each, own.seconds, 0)):
        for ratio in RATIOS:
            result = woo2020.tested(TIME, ships, one, ratio)
            lines.append({"row": SHIPS, "smr_db": ratio} | result)
        progress("as it ships", n + 1, len(parts.test.music) * own.each, float("nan"))
    figures: dict[str, Any] = {"scores": scores(lines), "sources": parts.sources, "count": lines[-1]["mixture"] + 1}
    figures["findings"] = [f._asdict() for f in woo2020_tables.findings(woo2020_tables.Results(lines))]
    figures["seconds"] = {what: round(seconds) for what, seconds in parts.seconds.items()}
    figures["most"] = dict(zip(Items._fields, map(most_of, parts.test), strict=True))
    figures["trainings"] = {
        name: {
            "steps": sum(f.epochs * r.steps_per_epoch for f, r in zip(one, own.recipes[name], strict=True)),
            "best": [f.epoch for f in one],
            "validation": [round(-f.loss, 2) for f in one],
            "seconds_per_step": round(pace(name, parts.learn), 2),
        }
        for name, one in made.items()
    }
    figures["machine"] = f"a CPU, {devices.cores()} cores," if jax.default_backend() == "cpu" else str(jax.devices()[0].device_kind)
    shipped.publish(TIME, weights, card(figures), output)
    (work / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


SHIPS = "as it ships"
ROWS = {
    SHIPS: "as it ships",
    TIME: "without the negative, single precision",
    FREQUENCY: "blstm-mask, for comparison",
    "ideal-ratio-mask": "ideal ratio mask",
}


def scores(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean scores of every row and ratio, with the mean SI-SDR gain and a confidence interval for it."""
    found = woo2020_tables.Results(lines)
    made: dict[str, Any] = {}
    for row in ROWS:
        made[row] = {}
        for ratio in RATIOS:
            gains = found.gains(row, ratio, "speech SI-SDR")
            leads = found.leads(row, MIXTURE, ratio, "speech SI-SDR")
            made[row][f"{ratio:g}"] = {
                "speech SDR": round(float(np.mean(found.values(row, ratio, "speech SDR"))), 1),
                "music SDR": round(float(np.mean(found.values(row, ratio, "music SDR"))), 1),
                "gain": round(float(np.mean(gains)), 1),
                "interval": [round(bound, 1) for bound in woo2020_tables.interval(leads)],
            }
    made[MIXTURE] = {f"{r:g}": round(float(np.mean(found.values(MIXTURE, r, "speech SDR"))), 1) for r in RATIOS}
    return made


def card(figures: dict[str, Any]) -> str:
    """Model card, in Markdown."""
    minutes = {name: seconds / 60 for name, seconds in figures["seconds"].items()}
    config, ours = BUDGETS[BUDGET].recipes[TIME][-1].config, figures["scores"]
    assert isinstance(config, conv_tasnet.ConvTasNet)
    rows = []
    for row, name in ROWS.items():
        cells = [f"{ours[row][f'{r:g}'][key]:.1f}" for key in ("speech SDR", "gain", "music SDR") for r in RATIOS]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    steps = {name: (of["steps"], of["seconds_per_step"]) for name, of in figures["trainings"].items()}
    spent = "; ".join(f"{name} for {n} steps of {each:.2f} s, {n * each / 3600:.1f} h" for name, (n, each) in steps.items())
    heads = " | ".join(f"{what}, {r:g} dB" for what in ("SDR", "gain in SI-SDR", "SDR of music") for r in RATIOS)
    low, high = ours[SHIPS]["0"]["interval"]
    sources = "\n".join(f"- {line}" for line in figures["sources"])
    return f"""# conv-tasnet

Separates speech and music: `bayessep separate --method conv-tasnet`.

**Licence.** CC BY-SA 4.0, as some of the training data requires.

- Conv-TasNet of paper 001 (Woo et al., 2020) in the preset small: {conv_tasnet.parameter_count(config):,} parameters in half
  precision, N={config.filters}, L={config.length}, B={config.bottleneck}, H={config.hidden}, X={config.blocks}, R={config.repeats};
  {config.mask} masks, stems that sum to the mixture, 16 kHz. Its filter bank was initialised with sines and cosines.
- Trained: {spent}
  (steps timed on {figures["machine"]} after the training). The last steps, with a learning rate that decays to zero, repeat the
  first mixtures. The shipped network averages its outputs for a waveform and for its negative,
  which was first tried on the mixtures of this evaluation.
- Made by `python -m bayessep.separator_release DATA -o bayessep/weights --work FOLDER`.

## Evaluation

{figures["count"]} mixtures of {BUDGETS[BUDGET].seconds:g} s at each ratio, of {minutes["test speech"]:.1f} min of real speech and
{minutes["test music"]:.1f} min of real music by speakers and artists who are not in the training; one collection accounts for
{figures["most"]["speech"]} of the speech, and one for {figures["most"]["music"]} of the music. Means in decibels, of the speech
unless stated otherwise; the gain is in SI-SDR over the mixture. The 95 % interval of the mean gain at 0 dB is {low:.1f} to
{high:.1f} (bootstrap over artists, of whom there are few). The paper's network, trained on 260 hours of speech and 30 of music,
has an SDR of 18.2 at 0 dB.

| | {heads} |
|---|{"---:|" * (3 * len(RATIOS))}
{chr(10).join(rows)}

## Training data

{minutes["learn speech"]:.1f} min of speech and {minutes["learn music"]:.1f} min of music, among them {len(GENERATED)} synthetic
broadcasts, played faster and slower and mixed anew for every step at 0 dB ± 5 dB; a further {minutes["held speech"]:.1f} min and
{minutes["held music"]:.1f} min for validation. No recording has a licence with NC or ND.

{sources}

## Limits

It takes singing for speech. It knows little music: parts of unfamiliar music stay in the speech, and speech sounds thinner where
music is loud. It does not see what lies above 8 kHz, which is divided between the stems like the high frequencies below.
"""


if __name__ == "__main__":
    main(release, __doc__)
