"""Implementation of `bayessep clean`: takes recordings and folders of recordings, writes one folder for each recording."""

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bayessep import (
    __version__,
    audio,
    cleaning,
    data,
    detection,
    devices,
    general,
    output,
    recognisers,
    recordings,
    resampling,
    segments,
    shipped,
    transcription,
)
from bayessep.audio import AudioInfo
from bayessep.cleaning import Cleaned, Cleaning
from bayessep.detection import Detection
from bayessep.downmix import to_mono
from bayessep.errors import UserError
from bayessep.separators import Progress
from bayessep.terminal import Terminal, spared, to_json
from bayessep.timeline import BOTH, MUSIC, SILENCE, SPEECH, labels_at, total
from bayessep.transcription import Recogniser, Transcript

FILES = {"speech": "speech.wav", "music": "music.wav", "segments": "segments.csv", "report": "report.html", "details": "clean.json"}
"""Files in the folder of a cleaned recording."""

TRANSCRIPTS = {"transcript": "transcript.txt", "captions": "transcript.srt"}
"""Additional files when a recogniser is used."""

CLEANED, SKIPPED, FAILED = "cleaned", "skipped", "failed"


class Writing(NamedTuple):
    """A recogniser for transcripts, and its description."""

    recogniser: Recogniser
    about: dict[str, Any]  # its name, the sha256 of its weights, and how many draws are transcribed

    @property
    def draws(self) -> int:
        """Number of posterior draws of the speech to transcribe besides the stem."""
        return self.about["draws"]


def writing(recogniser: str | None, weights: Path | None, draws: int) -> Writing | None:
    """Return the recogniser that the options ask for, None if they ask for none.

    Raises:
        UserError: as `recognisers.named`; or draws without a recogniser.
    """
    if recogniser is None and weights is None:
        if draws:
            raise UserError("--draws serve to mark uncertain words in a transcript; give a --recogniser, too.")
        return None
    made, name, digest = recognisers.named(recogniser, weights), recogniser or recognisers.ATTENTION, None
    if weights is not None:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    elif name == recognisers.ATTENTION:
        digest = shipped.info(name).sha256
    return Writing(made, {"name": name, "weights": digest, "draws": draws})


class Task(NamedTuple):
    """A recording, and the folder for its results."""

    recording: Path
    folder: Path


def tasks(given: Sequence[Path], folder: Path) -> list[Task]:
    """List the recordings to clean; a folder stands for the audio files in it and in its subfolders.

    The results of a recording go into a folder named after it, without the extension unless two recordings would share a name.
    Stems found in a folder with the clean.json of an earlier call are skipped.

    Raises:
        UserError: a folder holds no audio, two recordings have one name, a recording would be replaced, or a folder is in the way.
    """
    found = data.gather(given, is_stem)
    names = data.without_endings([place for _, place in found])
    planned = [Task(recording, folder / name) for (recording, _), name in zip(found, names, strict=True)]
    for name, count in Counter(task.folder for task in planned).items():
        if count > 1:
            first, second, *_ = (str(task.recording) for task in planned if task.folder == name)
            raise UserError(f"{first} and {second} would both be written to {name}; clean them into different folders.")
    results = [task.folder / name for task in planned for name in (*FILES.values(), *TRANSCRIPTS.values())]
    for result in results:
        output.no_folder(result)
    output.keep_inputs(Path(), map(str, results), [task.recording for task in planned])
    return planned


def is_stem(path: Path) -> bool:
    """Return whether a file is a stem that `clean` has written."""
    return path.name in (FILES["speech"], FILES["music"]) and (path.parent / FILES["details"]).is_file()


def clean(
    given: Sequence[Path],
    folder: Path,
    settings: Cleaning,
    device: str,
    terminal: Terminal,
    *,
    skip_existing: bool,
    writing: Writing | None = None,
) -> int:
    """Clean recordings one after the other; return how many failed.

    A recording that cannot be cleaned does not stop the others; if it is the only one, its error is raised.

    Raises:
        UserError: as `tasks`, or the only recording cannot be cleaned.
    """
    planned = tasks(given, folder)
    rows: list[dict[str, Any]] = []
    for n, task in enumerate(planned, start=1):
        row: dict[str, Any] = {"input": str(task.recording), "output": str(task.folder), "status": CLEANED, "error": None}
        rows.append(row)
        if skip_existing and is_done(task, settings, writing):
            row["status"] = SKIPPED
            terminal.note(f"{task.recording} is already cleaned, in {task.folder}")
            continue
        if len(planned) > 1:
            terminal.note(f"{n}/{len(planned)}: {task.recording}")
        failures: list[str] = []
        with spared(task.recording, failures.append, alone=len(planned) == 1):
            document = clean_one(task, settings, device, terminal, writing)
            row |= {name: document[name] for name in ("seconds", "seconds_of", "learned", "notes")}
        devices.forget_programs()
        for failure in failures:
            row |= {"status": FAILED, "error": failure}
            terminal.warn(failure)
    counts = {status: sum(row["status"] == status for row in rows) for status in (CLEANED, SKIPPED, FAILED)}
    document = {"command": "clean", "version": __version__, "device": device, "seed": settings.model.seed}
    document |= {"settings": dataclasses.asdict(settings), "recordings": rows, "counts": counts}
    terminal.result(document, _told(rows, counts))
    return counts[FAILED]


def _told(rows: Sequence[dict[str, Any]], counts: dict[str, int]) -> str:
    lines = [f"{row['output']}/{FILES['report']}" for row in rows if row["status"] == CLEANED]
    if len(rows) > 1:
        lines.append(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    return "\n".join([*lines, *(f"failed: {row['error']}" for row in rows if row["status"] == FAILED)])


def is_done(task: Task, settings: Cleaning, writing: Writing | None = None) -> bool:
    """Return whether all results exist, made from the recording as it is now, with these settings and the installed version."""
    if not all((task.folder / name).is_file() for name in (*FILES.values(), *(TRANSCRIPTS.values() if writing else ()))):
        return False
    try:
        document = json.loads((task.folder / FILES["details"]).read_text(encoding="utf-8"))
        same = document["settings"] == json.loads(to_json(dataclasses.asdict(settings)))
        same = same and document["version"] == __version__ and document["weights"] == _weights()
        same = same and (writing is None or document["recogniser"] == writing.about)
        return same and document["input"] | {"path": ""} == _input(task.recording, audio.probe(task.recording)) | {"path": ""}
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return False


def _weights() -> dict[str, str]:
    """Return the sha256 of the installed weights that cleaning uses."""
    return {name: shipped.info(name).sha256 for name in (detection.MODEL, general.MODEL) if name in shipped.names()}


def _input(path: Path, info: AudioInfo) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    seconds = info.frames / info.sample_rate
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest, "seconds": seconds, **info._asdict()}


def _transcripts(folder: Path) -> list[str]:
    """Return the transcript files of an earlier call that still match its clean.json."""
    try:
        document = json.loads((folder / FILES["details"]).read_text(encoding="utf-8"))
        texts = _texts(transcription.transcript_of(document["transcript"]))
        return [name for name, text in texts.items() if (folder / name).read_bytes() == text.encode()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _texts(said: Transcript) -> dict[str, str]:
    """Render a transcript as the contents of the files in `TRANSCRIPTS`, by file name."""
    formats = {"transcript": "text", "captions": "srt"}
    return {TRANSCRIPTS[what]: transcription.text_of(said, format) for what, format in formats.items()}


def clean_one(
    task: Task, settings: Cleaning, device: str, terminal: Terminal, writing: Writing | None = None
) -> dict[str, Any]:
    """Clean one recording; return the contents of its clean.json.

    Raises:
        UserError: it cannot be read, or is silent, or the results cannot be written; it is too long for draws; a transcript would
            replace one that was changed by hand; or the recogniser fails, and everything but the transcript is kept.
    """
    started = time.perf_counter()
    info, failure = audio.probe(task.recording), ""
    is_long, about = recordings.is_long(info), _input(task.recording, info)
    if writing and writing.draws and is_long:
        raise UserError(f"--draws: {task.recording} is too long to be held in memory; leave --draws out, or clean a part of it.")
    outdated = _transcripts(task.folder)
    for path in (task.folder / name for name in TRANSCRIPTS.values() if writing and name not in outdated):
        if path.exists():  # edited by hand
            raise UserError(f"{path} is not as an earlier call wrote it; move it, or choose another folder with -o.")
    with output.draft(task.folder, replacing=outdated) as part:
        with terminal.working() as progress:
            heard = detection.detect(task.recording, progress=progress)
            found, gain, draws = _stems(task.recording, is_long, part, heard, settings, writing.draws if writing else 0, progress)
            said = None
            try:
                said = _written(part, heard, draws, about["sample_rate"], writing, progress) if writing else None
            except UserError as error:
                failure = f"{error} The stems are in {task.folder}, without a transcript."
        segments.write(part / FILES["segments"], heard.segments)
        document: dict[str, Any] = {"command": "clean", "version": __version__, "device": device, "seed": settings.model.seed}
        document |= {"weights": _weights(), "settings": dataclasses.asdict(settings), "input": about} | _account(heard, found)
        seconds = time.perf_counter() - started
        document |= {"output_gain": gain, "seconds": seconds, "real_time_factor": seconds / about["seconds"]}
        if writing and said:
            document |= {"recogniser": writing.about, "transcript": transcription.document_of(said)}
        document["output"] = {"folder": str(task.folder)} | FILES | (TRANSCRIPTS if said else {})
        stems = {stem: part / FILES[stem] for stem in ("speech", "music")}
        from bayessep import cleaning_page  # matplotlib takes a while to import

        page = cleaning_page.render(task.recording, stems, heard, found, sentences(document), embed=not is_long, said=said)
        (part / FILES["report"]).write_text(page, encoding="utf-8", errors="replace")
        (part / FILES["details"]).write_text(to_json(document), encoding="utf-8")
    if outdated and not said:
        terminal.warn(f"the transcript in {task.folder} belonged to the stems of an earlier call: it was removed")
    for text in found.notes:
        terminal.note(f"{task.recording}: {text}")
    if said and writing and writing.draws and not draws:
        terminal.note(f"{task.recording}: nothing was mixed, so speech is certain: there is nothing to draw, and no word is marked")
    if failure:
        raise UserError(failure)
    return document


Draws = Iterable[Float[np.ndarray, "C N"]]


def _stems(
    recording: Path, is_long: bool, part: Path, heard: Detection, settings: Cleaning, draws: int, progress: Progress
) -> tuple[Cleaned, float, Draws]:
    """Write both stems; return the account of the separation, the common gain of the stems, and draws of the speech."""
    speech, music = (part / FILES[stem] for stem in ("speech", "music"))
    if is_long:
        return cleaning.clean_file(recording, heard, speech, music, settings, progress=progress), 1.0, ()
    mixture, rate = audio.read(recording)
    if not mixture.any():
        raise UserError(f"{recording} is silent: there is nothing to separate; give a recording with sound in it.")
    stems = cleaning.clean(mixture, rate, heard, settings, draws=draws, progress=progress)
    gain = audio.common_gain(stems.speech, stems.music, mixture)
    audio.write(speech, stems.speech * np.float32(gain), rate)
    audio.write(music, stems.music * np.float32(gain), rate)
    return stems.account, gain, stems.draws


def _written(
    part: Path, heard: Detection, draws: Draws, sample_rate: int, writing: Writing, progress: Progress
) -> Transcript:
    """Transcribe the speech stem where speech was detected; words that differ between draws are marked as unsure."""
    recogniser = writing.recogniser
    found = transcription.transcribe(part / FILES["speech"], recogniser, progress=progress)
    others = []
    for n, speech in enumerate(draws, start=1):
        mono = resampling.resample(to_mono(speech), sample_rate, recogniser.sample_rate)
        others.append(transcription.transcribe_samples(mono, recogniser))
        progress("recognising draws", n, writing.draws, float("nan"))
    said = transcription.compared(found, others)
    labels = labels_at(heard.segments, np.array([(word.start + word.end) / 2 for word in said.words]))
    said = said._replace(words=[word for word, label in zip(said.words, labels, strict=True) if label in (SPEECH, BOTH)])
    said = transcription.transcript_of(transcription.document_of(said))  # as in clean.json, from which `_transcripts` renders it
    for name, text in _texts(said).items():
        (part / name).write_bytes(text.encode())
    return said


_STEP = 0.5  # seconds between the values of uncertainty in clean.json


def _account(heard: Detection, found: Cleaned) -> dict[str, Any]:
    hop = float(found.times[1] - found.times[0]) if len(found.times) > 1 else _STEP
    every = max(1, round(_STEP / hop))
    learned = found.learned
    of = {SPEECH: ("", 0.0), MUSIC: ("", 0.0)}
    if learned is not None:
        of = {SPEECH: (learned.speech_from, learned.speech_seconds), MUSIC: (learned.music_from, learned.music_seconds)}
    return {
        "segments": [s._asdict() for s in heard.segments],
        "seconds_of": {label: total(heard.segments, label) for label in (SPEECH, MUSIC, BOTH, SILENCE)},
        "detection": {"hop_seconds": heard.hop, "p_speech": heard.speech, "p_music": heard.music},
        "learned": {what: {"from": source or None, "seconds": seconds} for what, (source, seconds) in of.items()},
        "frames": {"hop_seconds": every * hop, "p_music": found.p_music[::every]}
        | {f"uncertainty_{stem}": values[::every] for stem, values in found.uncertainty.items()},
        "notes": list(found.notes),
    }


def sentences(document: dict[str, Any]) -> list[str]:
    """Summarise clean.json in sentences for people."""
    of = ", ".join(f"{seconds:.0f} s of {label}" for label, seconds in document["seconds_of"].items() if seconds >= 0.5)
    said = [f"Detected: {of}." if of else "Hardly anything was detected."]
    for what, learned in document["learned"].items():
        if learned["from"] == cleaning.RECORDING:
            kind = "speech" if what == SPEECH else "distinct music"
            said.append(f"The {what} was learned from {learned['seconds']:.1f} s of {kind} found alone with certainty.")
    said += [note[:1].upper() + note[1:] for note in document["notes"]]
    if document["output_gain"] == 1:
        return [*said, "The stems add up to the recording. Speech heard alone passes untouched."]
    gain = f"Both stems are scaled by a factor of {document['output_gain']:.3f} to avoid clipping"
    return [*said, f"{gain}: they add up to the recording times that. Otherwise, speech heard alone passes untouched."]
