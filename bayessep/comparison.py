"""Compare several methods on one mixture: their stems, their scores, and one table.

The first row, ``mixture``, takes the mixture itself as the estimate of both stems: the baseline without any separation.
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
    """Results of one method. Scores are None if there is no reference or the estimate is silent."""

    method: str
    speech: StemScores | None
    music: StemScores | None
    bound: float | None  # on the log evidence; for icm the log posterior. Not comparable between methods
    sweeps: int | None
    seconds: float | None  # without the training shared by the methods


class Comparison(NamedTuple):
    """Results of all methods: rows in the order requested, after that of the mixture, and separations by method."""

    rows: list[Row]
    separations: dict[str, Separation]  # of the Bayesian methods
    sample_rate: int
    training_seconds: float  # shared by the methods that use trained templates
    estimates: Mapping[str, Estimate] = {}  # of all other methods

    @property
    def apart(self) -> dict[str, Separation | Estimate]:
        """Separations and estimates by method, in the order of the rows."""
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
    """Run several methods on one mixture; the Bayesian ones share settings and trained templates.

    Args:
        mixture: float waveform with all channels.
        sample_rate: in Hz.
        known: training speech, music to look for, labels.
        methods: keys of `METHODS` and of `estimators`; duplicates are run once.
        settings: of the Bayesian methods; their `method` is ignored.
        references: true ``speech`` and ``music``, mono; without them nothing is scored. Estimates are scored by the
            mean of their channels, as references are mixed down (`downmix`).
        estimators: other separation methods, by name (`estimates`).
        progress: called now and then.

    Raises:
        UserError: a method does not exist or has nothing to learn from, a reference is silent or of another length, or samples are
            NaN or infinite or not of the shapes above.
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
    """Return the scores of both stems; None for a stem without a reference or a silent one."""
    estimates = {"speech": to_mono(speech), "music": to_mono(music)}
    audible = {name: w for name, w in estimates.items() if name in references and np.any(w)}
    scores = metrics.evaluate_stems(references, audible) if audible else {}
    return scores.get("speech"), scores.get("music")


def _checked(references: Mapping[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """Validate the references before any work is done."""
    for name, waveform in references.items():
        if name not in STEMS:
            raise UserError(f"there is no stem {name!r}; name references speech or music.")
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
    """Return the value, or None if it is infinite or NaN, which JSON cannot represent."""
    return None if value is None or not math.isfinite(value) else value


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the rows as a JSON document; values that are not finite (the SAR of the mixture) become null."""

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
    """A column of the printed table: its heading, its values, and the row with the best one."""

    heading: str
    values: list[float | int | None]  # one for each row
    decimals: int
    best: int | None  # the row with the best value, None where values are not comparable


def columns(comparison: Comparison) -> list[Column]:
    """Return the table's columns; mixture and ideal masks are never marked best, and bounds, sweeps and seconds have no best."""
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


ROUNDING = 99.0  # decibels; ratios at least this large are limited by rounding only


def exact(decibels: float | int) -> float:
    """Return infinity for a ratio limited only by rounding errors, as the SAR of a mixture, which has no artefacts."""
    return math.inf if decibels >= ROUNDING else float(decibels)


def cell(value: float | int | None, decimals: int) -> str:
    """Format a number for the tables, rounding decimal halves up (11.95 to 12.0 despite its binary value); a dash for no value."""
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
    """Return an empty table for a terminal; without rules between columns, typical tables fit into 80 characters."""
    return Table(title=title, caption=caption or None, caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def table(comparison: Comparison) -> Table:
    """Return the comparison as a table for a terminal, with the best value of each column in bold."""
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
"""All methods, Bayesian and others."""


def files_of(method: str) -> list[str]:
    """Return the files written for one method, relative to the folder of the comparison."""
    return [f"{method}/{name}" for name in accounts.FILES.values()]


def earlier(folder: Path) -> list[str]:
    """Return the files of all methods of a comparison already in the folder; an empty list if there is none."""
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

    These are FOLDER/<method>/ with speech.wav, music.wav and, for Bayesian methods, labels.csv and separation.json; and
    compare.png, compare.json, compare.csv. If any stem would clip, all stems are attenuated by a common gain, which compare.json
    then records.

    Returns the paths of the last three files by their extension.

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
