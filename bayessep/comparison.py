"""Several methods on one mixture: their stems, their scores, and one table.

The first row, ``mixture``, is the mixture itself taken as the estimate of both stems: what was there before anybody
separated anything.
"""

import csv
import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich import box
from rich.table import Table
from rich.text import Text

from bayessep import accounts, audio, metrics, terminal
from bayessep.downmix import to_mono
from bayessep.errors import UserError
from bayessep.estimates import ORACLES, SUMMARIES, Estimate, Estimator, estimate_of
from bayessep.metrics import StemScores
from bayessep.output import draft
from bayessep.pipeline import Separation, analyse, separate
from bayessep.preparation import Known
from bayessep.separators import Progress, silent, train
from bayessep.settings import METHODS, Settings
from bayessep.timeline import Segment
from bayessep.waveforms import check_mixture, check_mono

MIXTURE = "mixture"  # the name of the first row
STEMS = ("speech", "music")


class Row(NamedTuple):
    """One method. Scores are None where there is no reference, or nothing to score."""

    method: str
    speech: StemScores | None
    music: StemScores | None
    bound: float | None  # on the evidence; of icm the log posterior. Not comparable between methods
    sweeps: int | None
    seconds: float | None  # without the training that the methods share


class Comparison(NamedTuple):
    """Rows in the order the methods were asked for, after the mixture; what they found, by method."""

    rows: list[Row]
    separations: dict[str, Separation]  # of the Bayesian methods
    sample_rate: int
    training_seconds: float  # shared by the methods that use trained templates
    estimates: Mapping[str, Estimate] = {}  # of all others

    @property
    def apart(self) -> dict[str, Separation | Estimate]:
        """Both of them, in the order of the rows."""
        every = {**self.separations, **self.estimates}
        return {row.method: every[row.method] for row in self.rows if row.method in every}


def compare(
    mixture: Float[np.ndarray, "C N"],
    sample_rate: int,
    known: Known,
    methods: Sequence[str] = tuple(METHODS),
    settings: Settings = Settings(),
    *,
    references: Mapping[str, Float[np.ndarray, " _"]] | None = None,
    estimators: Mapping[str, Estimator] = {},
    progress: Progress = silent,
) -> Comparison:
    """Run methods on one mixture; the Bayesian ones with the same settings and the same trained templates.

    Args:
        mixture: float waveform, every channel of it.
        sample_rate: in Hz.
        known: training speech, music to look for, labels.
        methods: keys of `METHODS` and of `estimators`; one named twice is run once.
        settings: of the Bayesian methods; their `method` does not matter.
        references: true ``speech`` and ``music``, mono; without them nothing is scored. Estimates are scored by the
            mean of their channels, as references are mixed down (`downmix`).
        estimators: other ways to separate, by name (`estimates`).
        progress: called now and then.

    Raises:
        UserError: a method does not exist, has nothing to learn from, a reference is silent or of another length, or samples are no
            numbers or not of the shapes above.
    """
    names = list(dict.fromkeys(methods))
    if not names:
        raise UserError(f"no method is given; choose from {', '.join((*METHODS, *estimators))}.")
    chosen = {name: dataclasses.replace(settings, method=name) for name in names if name not in estimators}
    check_mixture(mixture)
    true = _checked(references or {}, mixture.shape[1])
    started = time.perf_counter()
    needing = next((s for s in chosen.values() if METHODS[s.method].needs_speech), None)
    trained = None
    if needing is not None:
        _, plan = analyse(mixture, sample_rate, known, needing)
        trained = train(plan.spectra.speech, needing, progress)
    training_seconds = time.perf_counter() - started

    rows = [Row(MIXTURE, *score(true, mixture, mixture), None, None, None)]
    separations: dict[str, Separation] = {}
    estimates: dict[str, Estimate] = {}
    for name in names:
        if name in estimators:
            started = time.perf_counter()
            stems = estimators[name](mixture, sample_rate, progress)
            estimates[name] = estimate_of(stems, sample_rate, time.perf_counter() - started)
            rows.append(Row(name, *score(true, *stems), None, None, estimates[name].seconds))
            continue
        shared = trained if METHODS[name].needs_speech else None
        found = separate(mixture, sample_rate, known, chosen[name], progress=progress, trained=shared)
        separations[name] = found
        rows.append(Row(name, *score(true, found.speech, found.music), found.bound, found.steps, found.seconds))
    return Comparison(rows, separations, sample_rate, training_seconds, estimates)


def score(
    references: Mapping[str, Float[np.ndarray, " N"]],
    speech: Float[np.ndarray, "C N"],
    music: Float[np.ndarray, "C N"],
) -> tuple[StemScores | None, StemScores | None]:
    """Scores of both stems; None for one without a reference, or with nothing but silence in it."""
    estimates = {"speech": to_mono(speech), "music": to_mono(music)}
    audible = {name: w for name, w in estimates.items() if name in references and np.any(w)}
    scores = metrics.evaluate_stems(references, audible) if audible else {}
    return scores.get("speech"), scores.get("music")


def _checked(references: Mapping[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """The references, or an error before any work is done."""
    for name, waveform in references.items():
        if name not in STEMS:
            raise UserError(f"there is no stem {name!r} to refer to; name references speech or music.")
        check_mono(waveform, f"the {name} reference")
        if waveform.shape != (length,):
            raise UserError(
                f"the {name} reference has {waveform.shape[-1]} samples and the mixture {length}; they must be equal."
            )
        if not np.any(waveform):
            raise UserError(f"the {name} reference is silent: nothing can be scored against it; leave it out.")
    return dict(references)


# --- tables -------------------------------------------------------------------------------------------------------


def number(value: float | int | None) -> float | int | None:
    """None for what JSON has no word for."""
    return None if value is None or not math.isfinite(value) else value


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The rows as a JSON document; what is not finite (the SAR of the mixture) is null."""

    def scores(found: StemScores | None) -> dict[str, float | int | None] | None:
        return None if found is None else {name: number(exact(value)) for name, value in found._asdict().items()}

    rows = [
        {
            "method": row.method,
            "speech": scores(row.speech),
            "music": scores(row.music),
            "bound": number(row.bound),
            "sweeps": row.sweeps,
            "seconds": number(row.seconds),
        }
        for row in comparison.rows
    ]
    return {"rows": rows}


class Column(NamedTuple):
    """A column of the table for people: its heading, how it is read from a row, and which values are best."""

    heading: str
    values: list[float | int | None]  # one for each row
    decimals: int
    best: int | None  # the row with the best value, None where values are not comparable


def columns(comparison: Comparison) -> list[Column]:
    """What the table shows, column by column. Mixture and ideal masks compete for no best value, and bounds do not compete."""
    rows = comparison.rows
    competing = [n for n, row in enumerate(rows) if n > 0 and row.method not in ORACLES]

    def stem(name: str, field: str) -> list[float | int | None]:
        scores = [getattr(row, name) for row in rows]
        return [None if s is None else exact(getattr(s, field)) for s in scores]

    def best(values: list[float | int | None], sign: int) -> int | None:
        finite = [(sign * v, -n) for n, v in enumerate(values) if n in competing and v is not None and math.isfinite(v)]
        return -max(finite)[1] if len(finite) > 1 else None

    wanted = [
        ("SMR", stem("speech", "sir"), 1, 1),
        ("SAR", stem("speech", "sar"), 1, 1),
        ("SDR", stem("speech", "sdr"), 1, 1),
        ("SI-SDR", stem("speech", "si_sdr"), 1, 1),
        ("SDR music", stem("music", "sdr"), 1, 1),
        ("bound", [row.bound for row in rows], 0, 0),
        ("sweeps", [row.sweeps for row in rows], 0, 0),
        ("seconds", [row.seconds for row in rows], 1, 0),
    ]
    return [Column(head, values, digits, best(values, sign) if sign else None) for head, values, digits, sign in wanted]


ROUNDING = 99.0  # decibels


def exact(decibels: float | int) -> float:
    """Infinite where only rounding is left, as in the SAR of a mixture, which has no artefacts."""
    return math.inf if decibels >= ROUNDING else float(decibels)


def cell(value: float | int | None, decimals: int) -> str:
    """A number as the tables print it, 11.95 as 12.0 although it is held as a little less; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    exactly = Decimal(str(float(value)))
    rounded = exactly.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP) if abs(exactly) < 10**15 else exactly
    return f"{rounded:f}".replace("-", "−")


CAPTION = (
    "SMR (the SIR of the speech), SAR, SDR and SI-SDR are those of the speech, in dB. Bounds of methods stand "
    "on different footings and are not compared; the sweeps of svi are gradient steps. Seconds leave out the training that "
    "methods share, and hold the compilation of what was not run before."
)


def plain_table(title: str, caption: str = "") -> Table:
    """An empty table for a terminal; without rules between columns the usual ones fit into 80 characters."""
    return Table(title=title, caption=caption or None, caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def table(comparison: Comparison) -> Table:
    """The comparison for a terminal, the best value of each column in bold."""
    shown = plain_table("Speech and music, separated", CAPTION)
    shown.add_column("method", no_wrap=True)
    found = columns(comparison)
    for column in found:
        shown.add_column(column.heading, justify="right", no_wrap=True)
    for n, row in enumerate(comparison.rows):
        cells = [Text(cell(c.values[n], c.decimals), style="bold" if c.best == n else "") for c in found]
        shown.add_row(row.method, *cells)
    return shown


# --- files --------------------------------------------------------------------------------------------------------

FILES = {kind: f"compare.{kind}" for kind in ("png", "json", "csv")}


EVERY = (*METHODS, *SUMMARIES)
"""All methods there are, Bayesian and others."""


def files_of(method: str) -> list[str]:
    """What is written of one method, in the folder of the comparison."""
    return [f"{method}/{name}" for name in accounts.FILES.values()]


def earlier(folder: Path) -> list[str]:
    """What a comparison that is in the folder already has written of its methods; nothing where there is none."""
    try:
        methods = [row["method"] for row in json.loads((folder / FILES["json"]).read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, TypeError, KeyError):
        return []
    return [name for method in methods if method in EVERY for name in files_of(method)]


def write(
    comparison: Comparison,
    mixture: Float[np.ndarray, "C N"],
    folder: Path,
    *,
    references: Mapping[str, Float[np.ndarray, " N"]] | None = None,
    labels: Sequence[Segment] | None = None,
) -> dict[str, Path]:
    """Write the audio of each method, a figure and the tables; all files appear together, or none.

    FOLDER/<method>/ with speech.wav, music.wav and, of Bayesian methods, labels.csv and separation.json; and compare.png,
    compare.json, compare.csv. Where any stem would clip, all of them are turned down by one gain, which compare.json then names.

    Returns the paths of the three files by their extension.

    Raises:
        UserError: the folder cannot be written to.
    """
    from bayessep import plots  # matplotlib takes a while to import

    stems = [w for s in comparison.apart.values() for w in (s.speech, s.music)]
    gain = audio.common_gain(*stems)
    document = to_json(comparison) | ({"gain": gain} if gain != 1.0 else {})
    with draft(folder) as place:
        for name, found in comparison.separations.items():
            accounts.write(place / name, found, comparison.sample_rate, gain)
            details = {"method": name, **accounts.of_separation(found), "output_gain": gain}
            (place / name / accounts.FILES["details"]).write_text(terminal.to_json(details), encoding="utf-8")
        for name, one in comparison.estimates.items():
            for stem in STEMS:
                audio.write(place / name / accounts.FILES[stem], getattr(one, stem) * np.float32(gain), comparison.sample_rate)
        (place / FILES["json"]).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        _write_csv(place / FILES["csv"], comparison)
        (place / FILES["png"]).write_bytes(plots.png(plots.compare_figure(comparison, mixture, references, labels)))
    return {kind: Path(folder) / name for kind, name in FILES.items()}


def _write_csv(path: Path, comparison: Comparison) -> None:
    fields = StemScores._fields
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        heads = [f"{stem}_{field}" for stem in STEMS for field in fields]
        writer.writerow(["method", *heads, "bound", "sweeps", "seconds"])
        for row in comparison.rows:
            scores = [None if s is None else exact(getattr(s, f)) for s in (row.speech, row.music) for f in fields]
            numbers = [number(v) for v in (*scores, row.bound, row.sweeps, row.seconds)]
            writer.writerow([row.method, *("" if v is None else v for v in numbers)])
