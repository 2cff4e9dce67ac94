"""Read and write labelled segments: CSV, TSV, Audacity, RTTM, Praat TextGrid and JSON.

Files are read as timelines (`bayessep.timeline`, whose names are exported here too). Overlaps are resolved in
formats that allow them (RTTM, tiers of a TextGrid).
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayessep.errors import UserError
from bayessep.timeline import (
    ALIASES,
    BOTH,
    MUSIC,
    NOISE,
    SILENCE,
    SPEECH,
    UNLABELLED,
    Segment,
    Switches,
    canonical,
    fill_gaps,
    flatten,
    frame_switches,
    from_frames,
    merge,
    ordered,
    total,
)

__all__ = [
    "BOTH", "MUSIC", "NOISE", "SILENCE", "SPEECH", "UNLABELLED", "Segment", "Switches", "canonical",
    "fill_gaps", "flatten", "format_of", "frame_switches", "from_frames", "merge", "read", "to_text", "total", "write",
]  # fmt: skip

# ---------------------------------------------------------------------------------------------------- reading


class _Source(NamedTuple):
    """The text of a file, with the path that error messages name."""

    path: Path
    text: str
    strict: bool

    def error(self, line: int | None, problem: str) -> UserError:
        return UserError(f"{self.path}{'' if line is None else f', line {line}'}: {problem}")

    def segment(
        self, line: int | None, start: object, end: object, label: object, probability: object = None
    ) -> Segment:
        """Return a checked segment; ``line`` is its line number for error messages."""
        left, right = self.number(line, "start", start), self.number(line, "end", end)
        if left < 0:
            raise self.error(line, f"the segment starts at {left:g} s, before the recording; times begin at 0")
        if right <= left:
            raise self.error(line, f"the segment from {left:g} s ends at {right:g} s; the end must be after the start")
        sure = None if probability in (None, "") else self.number(line, "probability", probability)
        if sure is not None and not 0 <= sure <= 1:
            raise self.error(line, f"the probability is {sure:g}; it must lie between 0 and 1")
        name = canonical(str(label))
        if name is None and self.strict:
            known = ", ".join(ALIASES)
            raise self.error(line, f"the label {str(label)!r} is not known; use one of {known}")
        return Segment(left, right, str(label) if name is None else name, sure)

    def number(self, line: int | None, what: str, value: object) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise self.error(line, f"the {what} is {str(value)!r}; it must be a number")
        return number


def read(path: str | os.PathLike[str], *, strict: bool = True) -> list[Segment]:
    """Read labelled segments, in order and without overlaps.

    The format is recognised by the content: CSV or TSV with a header that names start, end (or duration) and
    label; the same without a header, as Audacity writes it (its point labels are left out); RTTM, where every
    named speaker is speech; Praat TextGrid, long or short; JSON. Text is UTF-8, or UTF-16 with a byte order
    mark. Overlaps are resolved in RTTM and between the tiers of a TextGrid (:func:`flatten`), and are an error
    elsewhere.

    Args:
        path: the file.
        strict: refuse unknown labels; otherwise they are kept as they are.

    Raises:
        UserError: the file cannot be read, is empty, in an unknown format or malformed; the message names the
            file and the line.
    """
    path = Path(path)
    try:
        text = _decode(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a file of labelled segments") from None
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}): give a file of labelled segments") from None
    source = _Source(path, text, strict)
    if not text.strip():
        raise source.error(None, "the file is empty; it must hold labelled segments")
    return _recognise(source)(source)


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def _recognise(source: _Source) -> Callable[[_Source], list[Segment]]:
    first = next((line for _, line in _lines(source.text)), source.text.strip())
    if first.lstrip().startswith(("{", "[")):
        return _read_json
    if "ooTextFile" in first:
        return _read_textgrid
    if re.match(r"[A-Z-]+\s+\S+\s+\S+\s+(\S+\s+){4,}", first + " "):
        return _read_rttm
    if re.match(r"\s*[-+.\d]+\s*[\t,;]\s*[-+.\d]+", first) or re.search(r"start|onset", first, re.IGNORECASE):
        return _read_table
    reader = _READERS.get(source.path.suffix.lower())
    if reader is None:
        raise source.error(None, f"not a format of segments that is known here; use {', '.join(_FORMATS)}")
    return reader


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield numbered lines, without blank lines, comments and Audacity's frequency ranges."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith(("#", ";;", "\\")):
            yield number, line


_COLUMNS = {
    "start": ("start", "start_time", "onset", "begin", "tmin"),
    "end": ("end", "end_time", "stop", "offset", "tmax"),
    "duration": ("duration", "dur"),
    "label": ("label", "labels", "class", "event_label", "text"),
    "probability": ("probability", "confidence", "posterior"),
}


def _read_table(source: _Source) -> list[Segment]:
    numbered = list(_lines(source.text))
    if not numbered:
        raise source.error(None, "the file holds nothing but comments; it must hold labelled segments")
    delimiter = next((d for d in "\t;" if d in numbered[0][1]), ",")
    headed = not re.match(r'[\s"]*[-+.\d]', numbered[0][1])
    of_audacity = delimiter == "\t" and not headed  # quotes belong to its labels, and some labels are of points
    quoting = csv.QUOTE_NONE if of_audacity else csv.QUOTE_MINIMAL
    rows = [(line, next(csv.reader([text], delimiter=delimiter, quoting=quoting))) for line, text in numbered]
    if of_audacity:  # or from a program that quotes cells
        rows = [(line, [_plain(cell) for cell in row]) for line, row in rows]
    at = {"start": 0, "end": 1, "label": 2, "probability": 3}
    if headed:
        line, header = rows.pop(0)
        names = [name.strip().lower() for name in header]
        at = {what: names.index(n) for what, known in _COLUMNS.items() for n in reversed(known) if n in names}
        if "start" not in at or "label" not in at or not {"end", "duration"} & set(at):
            found = ", ".join(header)
            raise source.error(line, f"the columns are {found!r}; there must be start, end and label")

    placed = []
    for line, row in rows:
        value = {what: row[n].strip() for what, n in at.items() if n < len(row)}
        if "start" not in value or "label" not in value or not {"end", "duration"} & set(value):
            raise source.error(line, f"expected start, end and label, found {delimiter.join(row)!r}")
        if "end" not in value:
            start, length = (source.number(line, what, value[what]) for what in ("start", "duration"))
            value["end"] = str(round(start + length, 9))
        if of_audacity and value["start"] == value["end"]:
            continue
        segment = source.segment(line, value["start"], value["end"], value["label"], value.get("probability"))
        placed.append((line, segment))
    if rows and not placed:
        raise source.error(None, "its labels mark points in time; they must mark stretches")
    return _without_overlaps(source, placed)


def _plain(cell: str) -> str:
    """Remove the quotes of a cell if they enclose a number or a known label."""
    inside = re.fullmatch(r'\s*"([^"]*)"\s*', cell)
    known = inside is not None and (canonical(inside[1]) is not None or re.fullmatch(r"[-+.\deE]+", inside[1].strip()))
    return inside[1] if inside is not None and known else cell


def _without_overlaps(source: _Source, placed: list[tuple[int | None, Segment]]) -> list[Segment]:
    """Sort segments; an overlap of up to a millisecond is rounding and is removed, more is an error."""
    segments: list[Segment] = []
    for line, s in sorted(placed, key=lambda item: item[1][:3]):
        if segments and s.start < segments[-1].end:
            last = segments[-1]
            if last.end - s.start > 1e-3 or s.end <= last.end:
                problem = f"the segment from {s.start:g} s begins before the one from {last.start:g} s has ended"
                raise source.error(line, f"{problem}; label what they share {BOTH!r}")
            s = s._replace(start=last.end)
        segments.append(s)
    return segments


_PERSONS = frozenset("m n s sp mu sm ms mix song pause".split())
"""Labels, in lower case, that may also be names of speakers; in RTTM they are read as names."""


def _read_rttm(source: _Source) -> list[Segment]:
    segments, recordings = [], set()
    for line, text in _lines(source.text):
        fields = text.split()
        if fields[0] not in ("SPEAKER", "NON-SPEECH"):
            continue  # SPKR-INFO, LEXEME and the like describe no segment
        if len(fields) < 8:
            raise source.error(line, f"an RTTM line has at least 8 fields, this one {len(fields)}")
        recordings.add(fields[1])
        start, length = source.number(line, "start", fields[3]), source.number(line, "duration", fields[4])
        label = fields[7]
        if fields[0] == "NON-SPEECH":
            label = {"other": NOISE}.get(fields[6].lower(), fields[6]) if label == "<NA>" else label
        elif canonical(label) is None or label.lower() in _PERSONS:
            label = SPEECH  # the name of a speaker
        sure = None if len(fields) < 9 or fields[8] == "<NA>" else fields[8]
        segments.append(source.segment(line, start, round(start + length, 9), label, sure))
    if len(recordings) > 1:
        names = ", ".join(sorted(recordings))
        raise source.error(None, f"the file describes several recordings ({names}); give one file for each")
    return flatten(segments)


def _read_json(source: _Source) -> list[Segment]:
    try:
        content = json.loads(source.text)
    except json.JSONDecodeError as error:
        raise source.error(error.lineno, f"not valid JSON ({error.msg})") from None
    entries = content.get("segments") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise source.error(None, "expected a list of segments, or an object whose 'segments' is one")
    placed = []
    for n, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not {"start", "end", "label"} <= set(entry):
            raise source.error(None, f"segment {n} must be an object with start, end and label")
        try:
            segment = source.segment(None, entry["start"], entry["end"], entry["label"], entry.get("probability"))
        except UserError as error:
            raise UserError(f"{error} (segment {n})") from None
        placed.append((None, segment))
    return _without_overlaps(source, placed)


# Praat reads free-standing numbers, quoted texts and flags, and treats everything else as comments. Doing the same
# makes one reader for the long and the short form.
_PRAAT_TOKEN = re.compile(r'"(?:[^"]|"")*"|(?<!\S)(?:<exists>|<absent>|[-+]?\.?\d[\d.eE+-]*)(?!\S)')


def _read_textgrid(source: _Source) -> list[Segment]:
    begin = re.match(r"(\s*#[^\n]*\n)*", source.text)  # skip leading comments: numbers in them are not data
    tokens = _PRAAT_TOKEN.finditer(source.text, begin.end() if begin else 0)

    def following(what: str) -> tuple[int, str]:
        token = next(tokens, None)
        if token is None:
            raise source.error(source.text.count("\n") + 1, f"the TextGrid ends where {what} should follow")
        text, line = token.group(), source.text.count("\n", 0, token.start()) + 1
        return line, text[1:-1].replace('""', '"') if text.startswith('"') else text

    def number(what: str) -> float:
        line, text = following(what)
        return source.number(line, what, text)

    for what in ("the file type", "the object class", "xmin", "xmax", "the tiers"):
        following(what)
    tiers: list[list[tuple[int, float, float, str]]] = []
    for _ in range(int(number("the number of tiers"))):
        kind = following("the class of a tier")[1]
        for what in ("the name of a tier", "xmin", "xmax"):
            following(what)
        rows = []
        for _ in range(int(number("the number of intervals"))):
            if kind != "IntervalTier":  # points have a time and a mark, and no duration
                following("a time")
                following("a mark")
                continue
            start, end = number("xmin"), number("xmax")
            line, text = following("a label")
            if text.strip():
                rows.append((line, start, end, text))
        if kind == "IntervalTier":
            tiers.append(rows)
    # Tiers of words or phones may accompany the tier of segments.
    ours = [rows for rows in tiers if all(canonical(text) for *_, text in rows)]
    chosen = ours or tiers[:1]
    return flatten(
        [s for rows in chosen for s in _without_overlaps(source, [(r[0], source.segment(*r)) for r in rows])]
    )


_READERS = {".csv": _read_table, ".tsv": _read_table, ".txt": _read_table, ".rttm": _read_rttm,
            ".textgrid": _read_textgrid, ".json": _read_json}  # fmt: skip
ENDINGS = tuple(_READERS)
"""Extensions of files of segments."""

# ---------------------------------------------------------------------------------------------------- writing


def write(path: str | os.PathLike[str], segments: Iterable[Segment], format: str | None = None) -> None:
    """Write segments; the format is that of the extension unless ``format`` is given.

    Formats are ``csv``, ``tsv``, ``audacity`` (``.txt``), ``rttm`` (speech+music becomes two lines), ``textgrid`` and
    ``json``. Times are written to the microsecond, and shorter segments are left out. Audacity and TextGrid cannot
    store probabilities. Audacity and RTTM cannot represent a recording without segments: the file is empty, which
    `read` refuses. The file is written whole or not at all.

    Raises:
        UserError: the format is not known, or the file cannot be written.
        ValueError: segments overlap or end before they start, or a label holds a tab or a line break.
    """
    path = Path(path)
    text = to_text(segments, format_of(path, format), path.stem)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="")
        os.replace(temporary, path)
    except OSError as error:
        if temporary.is_file():
            temporary.unlink()
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another place") from None


def format_of(path: str | os.PathLike[str], format: str | None = None) -> str:
    """Return the format to write a file in: that of its extension, unless ``format`` names one.

    Raises:
        UserError: the format is not known.
    """
    suffix = Path(path).suffix.lower()
    name = format or {".txt": "audacity"}.get(suffix, suffix.lstrip("."))
    if name not in _FORMATS:
        raise UserError(f"{path}: {name!r} is not a format of segments; use one of {', '.join(_FORMATS)}")
    return name


def to_text(segments: Iterable[Segment], format: str, recording: str = "recording") -> str:
    """Render segments as a text in one of the formats of :func:`write`. RTTM names the recording in each line.

    Raises:
        ValueError: as :func:`write`.
    """
    return _FORMATS[format]([s for s in ordered(segments) if round(s.start, 6) < round(s.end, 6)], recording)


def _table(segments: list[Segment], delimiter: str) -> str:
    sure = any(s.probability is not None for s in segments)
    rows = [["start", "end", "label", *(["probability"] if sure else [])]]
    for s in segments:
        probability = [] if not sure else ["" if s.probability is None else f"{s.probability:.6f}"]
        rows.append([f"{s.start:.6f}", f"{s.end:.6f}", s.label, *probability])
    return "".join(delimiter.join(_quoted(cell, delimiter) for cell in row) + "\n" for row in rows)


def _quoted(cell: str, delimiter: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if delimiter in cell or '"' in cell else cell


def _rttm(segments: list[Segment], recording: str) -> str:
    recording = re.sub(r"\s+", "_", recording) or "recording"
    lines = []
    for s in segments:
        sure = "<NA>" if s.probability is None else f"{s.probability:.6f}"
        start, length = f"{s.start:.6f}", f"{round(s.end, 6) - round(s.start, 6):.6f}"
        for label in (SPEECH, MUSIC) if s.label == BOTH else (s.label,):
            kind, name = ("SPEAKER", "<NA>") if label in (SPEECH, MUSIC) else ("NON-SPEECH", "other")
            lines.append(f"{kind} {recording} 1 {start} {length} <NA> {name} {label.replace(' ', '_')} {sure} <NA>\n")
    return "".join(lines)


def _textgrid(segments: list[Segment], recording: str) -> str:
    duration = segments[-1].end if segments else 0.0
    intervals = fill_gaps(segments, duration, label="")
    head = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {duration:.6f}",
        "tiers? <exists>", "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"',
        '        name = "segments"', "        xmin = 0", f"        xmax = {duration:.6f}",
        f"        intervals: size = {len(intervals)}",
    ]  # fmt: skip
    for n, s in enumerate(intervals, start=1):
        text = s.label.replace('"', '""')
        head += [
            f"        intervals [{n}]:",
            f"            xmin = {s.start:.6f}",
            f"            xmax = {s.end:.6f}",
            f'            text = "{text}"',
        ]  # fmt: skip
    return "\n".join(head) + "\n"


def _json(segments: list[Segment], recording: str) -> str:
    entries = []
    for s in segments:
        entry: dict[str, float | str] = {"start": round(s.start, 6), "end": round(s.end, 6), "label": s.label}
        if s.probability is not None:
            entry["probability"] = round(s.probability, 6)
        entries.append(entry)
    return json.dumps({"segments": entries}, indent=1, ensure_ascii=False) + "\n"


_FORMATS: dict[str, Callable[[list[Segment], str], str]] = {
    "csv": lambda segments, recording: _table(segments, ","),
    "tsv": lambda segments, recording: _table(segments, "\t"),
    "audacity": lambda segments, recording: "".join(f"{s.start:.6f}\t{s.end:.6f}\t{s.label}\n" for s in segments),
    "rttm": _rttm,
    "textgrid": _textgrid,
    "json": _json,
}
