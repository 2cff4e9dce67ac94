"""Implementation of the verbs of `bayessep.cli`, which imports this module only to run one."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bayessep import __version__, accounts, audio, metrics, output, pipeline, recordings, segments
from bayessep.errors import UserError
from bayessep.pipeline import Separation
from bayessep.recordings import Material
from bayessep.separators import Progress
from bayessep.settings import METHODS, Settings
from bayessep.terminal import Terminal, to_json

# --- separate ------------------------------------------------------------------------------------------------------------


def separate(
    material: Material, settings: Settings, folder: Path, device: str, terminal: Terminal, *, draws: int = 0
) -> None:
    """Separate one recording; write stems, labels, separation.json, and `draws` posterior draws of the speech.

    Raises:
        UserError: draws are asked for, and the recording is too long to be held in memory.
    """
    if draws and material.is_long:
        raise UserError(f"--draws: {material.path} is too long to be held in memory; separate a part of it.")
    earlier = earlier_draws(folder)
    names = {*accounts.FILES.values(), *earlier, *map(_DRAW.format, range(1, draws + 1))}
    output.keep_inputs(folder, names, material.inputs)
    recordings.warn_of_long_music(material, settings, terminal.warn)
    with output.draft(folder, replacing=earlier) as part:
        work = _separate_in_pieces if material.is_long else _separate_at_once
        document: dict[str, Any] = {"command": "separate", "version": __version__, "method": settings.method, "device": device}
        document |= {"settings": dataclasses.asdict(settings), "seed": settings.seed}
        document |= {"input": _input(material)} | work(material, settings, part, terminal, draws)
        document["real_time_factor"] = document["seconds"] / material.seconds
        written = {f"draw {n}": _DRAW.format(n) for n in range(1, draws + 1)}
        document["output"] = {"folder": str(folder)} | accounts.FILES | written
        (part / accounts.FILES["details"]).write_text(to_json(document), encoding="utf-8")
    terminal.result(document, _told(document))


def draws_in(folder: Path) -> list[str]:
    """List the draw files in a folder: ``draws/speech-1.wav``, ``draws/speech-2.wav`` … up to the first missing number."""
    return list(takewhile(lambda name: os.path.isfile(folder / name), map(_DRAW.format, count(1))))


def earlier_draws(folder: Path) -> list[str]:
    """List the draws that an earlier call wrote, by its separation.json: they would not belong to the new stems."""
    try:
        written = json.loads((folder / accounts.FILES["details"]).read_text(encoding="utf-8"))["output"].values()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []
    return [name for name in draws_in(folder) if name in written]


def _input(material: Material) -> dict[str, Any]:
    info, labels = material.info, material.labels
    return {
        "path": str(material.path),
        "seconds": material.seconds,
        **info._asdict(),
        "training": material.files,
        "bandwidth": material.known.bandwidth,
        "labels": None if labels is None else [s._asdict() for s in labels],
    }


def _separate_at_once(
    material: Material, settings: Settings, part: Path, terminal: Terminal, draws: int
) -> dict[str, Any]:
    mixture, rate = recordings.read_mixture(material), material.info.sample_rate
    with terminal.working() as progress:
        result = pipeline.separate(mixture, rate, material.known, settings, progress=progress)
        gain = audio.common_gain(result.speech, result.music, mixture)
        accounts.write(part, result, rate, gain)
        if draws:
            _write_draws(part, result, mixture, rate, gain, draws, progress)
    for text in result.notes:
        terminal.warn(text)
    return accounts.of_separation(result) | {"output_gain": gain}


_DRAW = "draws/speech-{}.wav"  # numbered from 1


def _write_draws(
    folder: Path, result: Separation, mixture: np.ndarray, sample_rate: int, gain: float, draws: int, progress: Progress
) -> None:
    """Write posterior draws of the speech at the gain of the stem, as 32-bit float: draws may clip where their mean does not."""
    from bayessep.draws import draw_speech, key_of

    (folder / _DRAW).parent.mkdir()
    for n, speech in enumerate(draw_speech(result, mixture, sample_rate, key_of(result), draws), start=1):
        audio.write(folder / _DRAW.format(n), speech * np.float32(gain), sample_rate, "FLOAT")
        progress("sampling", n, draws, float("nan"))


def _separate_in_pieces(
    material: Material, settings: Settings, part: Path, terminal: Terminal, _draws: int
) -> dict[str, Any]:
    from bayessep import streaming

    for text in streaming.limits(settings):
        terminal.warn(text)
    terminal.note(f"{material.path} is long, and is processed in blocks")
    with terminal.working() as progress:
        result = streaming.separate_file(
            material.path, material.known, settings, *(part / accounts.FILES[s] for s in ("speech", "music")), progress=progress
        )
    segments.write(part / accounts.FILES["labels"], result.segments)
    return accounts.of_long_separation(result) | {"settings": dataclasses.asdict(result.settings), "output_gain": 1.0}


def _told(document: dict[str, Any]) -> str:
    """Summarise a separation in a few lines."""
    sweeps = f"{document['sweeps']} {METHODS[document['method']].unit}" + ("" if document["converged"] else " (not yet converged)")
    if document["converged"] is None:
        sweeps = "in blocks"
    pace = f"{document['seconds']:.1f} s ({document['real_time_factor']:.2f} of the recording's length)"
    lines = [f"{document['method']}: {sweeps}, {pace}"]
    if document["period_seconds"]:
        lines.append(f"the music repeats every {document['period_seconds']:.2f} s")
    if document["output_gain"] != 1:
        lines.append(f"both stems are scaled by a factor of {document['output_gain']:.3f} to avoid clipping")
    folder = Path(document["output"]["folder"])
    return "\n".join([*lines, *(str(folder / name) for key, name in document["output"].items() if key != "folder")])


# --- compare and demo ----------------------------------------------------------------------------------------------------


def compare(
    material: Material,
    methods: Sequence[str],
    references: dict[str, Path] | None,
    settings: Settings,
    folder: Path,
    device: str,
    terminal: Terminal,
    estimators: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]] = lambda references: {},
    weights: Sequence[Path] = (),
) -> None:
    """Run several methods on one mixture; print the table, and write it with a figure, a page, and the audio of each method.

    `estimators` maps the true sources to the estimators of those methods that are not Bayesian; `weights` are the files that some
    of these were loaded from.
    """
    from bayessep import comparison, report

    if material.is_long:
        terminal.warn(f"{material.path} is long, and compare holds all of it in memory; a part of it is enough.")
    if any(name in METHODS for name in methods):
        recordings.warn_of_long_music(material, settings, terminal.warn)
    mixture, rate = recordings.read_mixture(material), material.info.sample_rate
    true = None
    if references is not None:
        true = {name: recordings.read_reference(path, material) for name, path in references.items()}
    others = estimators(true or {})
    everything = [name for method in comparison.EVERY for name in comparison.files_of(method)]
    inputs = [*material.inputs, *(references or {}).values(), *weights]
    output.keep_inputs(folder, [*everything, "report.html", *comparison.FILES.values()], inputs)
    with output.draft(folder, replacing=comparison.earlier(folder)) as part:
        with terminal.working() as progress:
            result = comparison.compare(
                mixture, rate, material.known, methods, settings, references=true, estimators=others, progress=progress
            )
        labels = material.labels
        written = comparison.write(result, mixture, part, references=true, labels=labels)
        report.write_report(part / "report.html", result, mixture, rate, references=true, labels=labels)
        document = {"command": "compare", "version": __version__, "device": device, "seed": settings.seed}
        common = {name: value for name, value in dataclasses.asdict(settings).items() if name != "method"}
        document |= {"methods": list(result.apart), "settings": common, "input": _input(material)}
        document["weights"] = list(map(str, weights))
        document["notes"] = {method: list(found.notes) for method, found in result.separations.items()}
        document |= json.loads(written["json"].read_text(encoding="utf-8"))  # the rows, and the gain if there was one
        document["output"] = {"folder": str(folder), "report": "report.html"} | {k: p.name for k, p in written.items()}
        written["json"].write_text(to_json(document), encoding="utf-8")
    for text in dict.fromkeys(note for notes in document["notes"].values() for note in notes):
        terminal.warn(text)
    _show(result, document, folder / "report.html", terminal)


def demo(folder: Path, seed: int, device: str, terminal: Terminal) -> None:
    """Generate a broadcast and separate it by every method."""
    from bayessep import demonstration

    with terminal.working() as progress:
        made = demonstration.demo(folder, seed=seed, progress=progress)
    document = {"command": "demo", "version": __version__, "device": device, "seed": seed}
    document |= json.loads(made.table.read_text(encoding="utf-8"))
    document["output"] = {"folder": str(folder), "report": made.report.name, "png": made.figure.name, "json": made.table.name}
    _show(made.comparison, document, made.report, terminal)


def _show(result: Any, document: dict[str, Any], page: Path, terminal: Terminal) -> None:
    from rich.console import Group

    from bayessep import comparison

    terminal.result(document, Group(comparison.table(result), f"to look and listen, open {page}"))


# --- evaluate ------------------------------------------------------------------------------------------------------------


def evaluate(references: Sequence[Path], estimates: Sequence[Path], terminal: Terminal, *, skip_gaps: bool = False) -> None:
    """Score estimated sources against the true ones, or estimated labels against the true ones.

    Raises:
        UserError: files cannot be read, their numbers differ, or they are partly sound and partly labels; gaps are to be skipped in
            sound; or the true labels hold nothing to score.
    """
    labels = [path.suffix.lower() in segments.ENDINGS for path in (*references, *estimates)]
    if all(labels):
        return _evaluate_labels(references, estimates, skip_gaps, terminal)
    if any(labels):
        endings = ", ".join(segments.ENDINGS)
        raise UserError(f"evaluate compares sound with sound or labels ({endings}) with labels; give files of one kind.")
    if skip_gaps:
        raise UserError("--skip-gaps applies to labels only; leave it out.")
    from rich.table import Table

    from bayessep import comparison

    true, estimated, _ = recordings.read_pairs(references, estimates, terminal.note)
    scores = metrics.bss_eval(true, estimated)
    alone = np.asarray(metrics.si_sdr(jnp.asarray(true), jnp.asarray(estimated)))
    columns = {"sdr": scores.sdr, "sir": scores.sir, "sar": scores.sar, "si_sdr": alone}
    rows: list[dict[str, Any]] = [
        {"reference": str(r), "estimate": str(e)} | {name: float(values[n]) for name, values in columns.items()}
        for n, (r, e) in enumerate(zip(references, estimates, strict=True))
    ]
    table = Table(title="Scores in decibels")
    for column in ("reference", "estimate", "SDR", "SIR", "SAR", "SI-SDR"):
        table.add_column(column, justify="left" if column.islower() else "right", overflow="fold")
    for row in rows:
        if len(rows) == 1:
            row["sir"] = math.nan  # nothing interferes
        table.add_row(row["reference"], row["estimate"], *(comparison.cell(row[name], 2) for name in columns))
    terminal.result({"sources": rows}, table)


def _evaluate_labels(references: Sequence[Path], estimates: Sequence[Path], skip_gaps: bool, terminal: Terminal) -> None:
    from rich.console import Group
    from rich.table import Table

    from bayessep import comparison, detection_scores

    recordings.check_pairs(references, estimates)
    pairs = [tuple(segments.read(path, strict=False) for path in pair) for pair in zip(references, estimates, strict=True)]
    unknown = sorted({s.label for pair in pairs for of in pair for s in of if segments.canonical(s.label) is None})
    if unknown:
        terminal.warn(f"These labels are not known and count as neither speech nor music: {', '.join(unknown)}.")
    gaps = segments.UNLABELLED if skip_gaps else segments.SILENCE, segments.SILENCE
    true, found, end = [], [], 0.0
    for pair in pairs:  # one after another, as counts of all recordings add up
        lasts = max((s.end for of in pair for s in of), default=0.0)
        for whole, of, gap in zip((true, found), pair, gaps, strict=True):
            whole += [s._replace(start=end + s.start, end=end + s.end) for s in segments.fill_gaps(of, lasts, gap)]
        end += lasts
    frames = detection_scores.frame_scores(true, found, end) if end else None
    if frames is None or not frames.frames:
        raise UserError(f"{references[0]}: no time is labelled that can be scored, here or in any other file; add labels.")
    rows = {
        str(name) if exclusive else f"{name} at all": {"precision": precision, "recall": recall, "f1": f1}
        for exclusive, of in ((True, frames.exclusive), (False, frames.each))
        for name, precision, recall, f1 in zip(of.classes, of.precision, of.recall, of.f1, strict=True)
    }
    exact = None
    try:
        exact = {label: scores._asdict() for label, scores in detection_scores.segment_scores(true, found, end).items()}
    except UserError as error:
        terminal.note(f"Without scores by exact times: {error}")
    average, seconds = frames.exclusive.true_f1, frames.frames / 100
    said = f"average F1 of the first three, as far as they are true: {comparison.cell(100 * average, 1)}"
    table = Table(title=f"Per cent of {seconds:.1f} s")
    table.add_column("")
    for column in ("precision", "recall", "F1", *(["error rate"] if exact else [])):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        error = exact[name.removesuffix(" at all")]["error"] if exact and name.endswith("at all") else math.nan
        cells = [*row.values(), *([error] if exact else [])]
        table.add_row(name, *("" if math.isnan(x) else comparison.cell(100 * float(x), 1) for x in cells))
    document = {"files": len(pairs), "seconds": seconds, "average_f1": average, "frames": rows, "segments": exact}
    terminal.result(document, Group(table, said))
