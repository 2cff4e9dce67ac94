"""Recordings to words: pieces, captions, and recognisers that are plugged in."""

import json
import os
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest

from bayessep import cli_transcripts, devices, transcription
from bayessep.errors import UserError
from bayessep.recognition import Word
from bayessep.spoken import DIGITS
from bayessep.transcription import Transcript, captions, pieces, plugged_in, text_of, transcribe, transcribe_samples
from tests.commandline import UNUSABLE, Caller, files, save

HEARD = '''
from bayessep.recognition import Word
import numpy as np

class Ones:
    """Says a word for every stretch of ones that it hears."""

    sample_rate, seconds = 8000, 2.0

    def recognise(self, speech):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], speech > 0.1, [0]]).astype(int))).reshape(-1, 2)
        return [Word("ha", a / 8000, b / 8000, 0.5) for a, b in edges]

class Endless(Ones):
    seconds = 0

class Leaving(Ones):
    def __init__(self):
        raise SystemExit(3)

class Broken(Ones):
    def recognise(self, speech):
        raise RuntimeError("boom")
'''


@pytest.fixture
def ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a module of recognisers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"mine_{tmp_path.name}.py").write_text(HEARD)
    return tmp_path


def _name(folder: Path, attribute: str = "Ones") -> str:
    return f"mine_{folder.name}:{attribute}"


def _claps(seconds: float = 9.0) -> np.ndarray:
    """Half a second of ones every second, with a faint sound between."""
    at = np.arange(round(8000 * seconds)) / 8000
    return np.where((at % 1 > 0.25) & (at % 1 < 0.75), 0.5, 0.01).astype(np.float32)


# --- pieces --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [700, 10_000, 10**6])
def test_pieces_are_the_recording_and_are_cut_where_it_is_quiet(block: int) -> None:
    x = _claps()
    found = list(pieces((x[n : n + block] for n in range(0, len(x), block)), 16_000, 8000))
    np.testing.assert_array_equal(np.concatenate(found), x)
    assert max(map(len, found)) <= 16_000 and min(map(len, found[:-1])) >= 8000
    assert all(piece[-1] < 0.1 for piece in found)


def test_a_recording_without_quiet_places_is_cut_all_the_same() -> None:
    assert sum(len(piece) for piece in pieces([np.ones(1000, np.float32)], 10, 8000)) == 1000
    assert list(pieces([], 10, 8000)) == []


def test_words_have_their_places_in_the_whole(ones: Path) -> None:
    found = transcribe_samples(_claps(), plugged_in(_name(ones)))
    assert [round(word.start, 2) for word in found.words] == [n + 0.25 for n in range(9)]
    assert [round(word.end, 2) for word in found.words] == [n + 0.75 for n in range(9)]
    assert found.text == " ".join(["ha"] * 9) and found.duration == 9
    streamed = transcribe(save(ones / "claps.wav", _claps(), rate=8000), plugged_in(_name(ones)))
    np.testing.assert_allclose([w[1:] for w in streamed.words], [w[1:] for w in found.words], atol=1e-6)


def test_silence_has_no_words(ones: Path) -> None:
    assert transcribe_samples(np.zeros(8000, np.float32), plugged_in(_name(ones))).words == []
    with pytest.raises(UserError, match="NaN"):
        transcribe_samples(np.full(8000, np.nan, np.float32), plugged_in(_name(ones)))


class _Says:
    sample_rate, seconds = 8000, 10.0

    def __init__(self, *words: object) -> None:
        self.words = words

    def recognise(self, speech: np.ndarray) -> tuple[object, ...]:
        return self.words


def test_times_stay_inside_and_in_order() -> None:
    said = _Says(Word(" a\n", -1.0, 0.5, 2.0), Word("b", 0.25, 0.4, 0.5), Word(" ", 0.5, 0.6, 0.5), Word("c", 0.9, 7.0, -1.0))
    found = transcribe_samples(np.ones(8000, np.float32), said)
    assert found.words == [Word("a", 0.0, 0.5, 1.0), Word("b", 0.5, 0.5, 0.5), Word("c", 0.9, 1.0, 0.0)]


@pytest.mark.parametrize("said", ["word", Word("a", float("nan"), 1.0, 1.0), Word("a", 900.0, 950.0, 1.0), Word("a", 0, 1, None)])  # type: ignore
def test_what_is_no_word_is_refused(said: object) -> None:
    with pytest.raises(UserError, match="the recogniser says"):
        transcribe_samples(np.ones(8000, np.float32), _Says(said))


# --- writing -------------------------------------------------------------------------------------------------------------


def test_captions_are_short_in_time_and_on_the_page() -> None:
    words = [Word("word" * (1 + n % 3), 0.5 * n, 0.5 * n + 0.4, 1.0) for n in range(60)]
    words += [Word("later", 40.0, 40.5, 1.0), Word("<b>&", 40.6, 3700.25, 1.0)]
    found = captions(words)
    assert " ".join(" ".join(one.lines) for one in found) == Transcript(words, 4000.0).text
    for one in found[:-1]:
        assert len(one.lines) <= 2 and max(map(len, one.lines)) <= transcription.LINE
        assert one.end - one.start <= transcription.LASTING
    assert found[-2].lines[0] == "later"
    written = text_of(Transcript(words, 4000.0), "srt")
    assert written.startswith("1\n00:00:00,000 --> ") and "--> 01:01:40,250\n‹b›&\n" in written, "players obey <b>"
    assert written.count("\n\n") == len(found) - 1
    web = text_of(Transcript(words, 4000.0), "vtt")
    assert web.startswith("WEBVTT\n\n00:00:00.000 --> ") and "&lt;b&gt;&amp;" in web
    assert text_of(Transcript([], 1.0), "vtt") == "WEBVTT\n\n" and text_of(Transcript([], 1.0), "text") == ""


def test_captions_last_and_hold_nothing_that_a_terminal_would_obey() -> None:
    said = _Says(Word("be\x1b[31mep\x00", 0.9, 0.9, 1.0), Word("late", 1.5, 2.0, 1.0))
    found = transcribe_samples(np.ones(8000, np.float32), said)
    assert [word.word for word in found.words] == ["be [31mep", "late"]
    assert text_of(Transcript([Word("late", 1.0, 1.0, 1.0)], 1.0), "vtt").endswith("00:00:01.000 --> 00:00:01.050\nlate\n")


# --- draws ---------------------------------------------------------------------------------------------------------------


def _spoken(*words: str) -> Transcript:
    """One word a second; a dash is none."""
    return Transcript([Word(word, n + 0.2, n + 0.7, 0.9) for n, word in enumerate(words) if word != "-"], 9.0)


def test_words_that_change_from_draw_to_draw_are_unsure() -> None:
    found = transcription.compared(_spoken("a", "b", "a", "d"), [_spoken("a", "b", "-", "d"), _spoken("a", "c", "a", "d")])
    assert [word.agreement for word in found.words] == [1.0, 0.5, 0.5, 1.0]  # in their places: the first "a" is sure
    assert text_of(found, "text") == "a b(?) a(?) d\n" and found.text == "a b a d"
    document = transcription.document_of(found)
    assert [word["unsure"] for word in document["words"]] == [False, True, True, False] and document["draws"] == 2
    assert transcription.transcript_of(document) == found
    alone = transcription.compared(_spoken("a"), [])
    assert alone == _spoken("a") and "draws" not in transcription.document_of(alone)
    assert transcription.compared(_spoken("a"), [_spoken("a", "a")]).words[0].agreement == 1
    twice = Transcript([Word("a", 0, 1, 1), Word("a", 0, 1, 1)], 1.0)  # one word of a draw does not agree with two
    assert sorted(w.agreement for w in transcription.compared(twice, [_spoken("a")]).words) == [0, 1]


def test_words_find_the_nearest_of_the_same_word_however_it_is_written() -> None:
    said = Transcript([Word("No,", 0.0, 0.5, 1.0), Word("no!", 0.55, 1.0, 1.0), Word("Don't", 1.0, 1.5, 1.0)], 2.0)
    drawn = Transcript([Word("no", 0.5, 1.0, 1.0), Word("don't.", 1.0, 1.5, 1.0)], 2.0)  # the first is not heard in it
    assert [word.agreement for word in transcription.compared(said, [drawn]).words] == [0, 1, 1]
    printed = Transcript([Word("Don’t.", 1.0, 1.5, 1.0)], 2.0)
    assert [word.agreement for word in transcription.compared(printed, [drawn]).words] == [1]
    noise = Transcript([Word("…", 0.0, 0.5, 1.0), Word("?", 0.6, 0.9, 1.0)], 1.0)  # nothing but punctuation is itself
    assert [word.agreement for word in transcription.compared(noise, [noise]).words] == [1, 1]


# --- the verb ------------------------------------------------------------------------------------------------------------


def test_formats_of_the_command_line_are_those_that_can_be_written() -> None:
    assert set(cli_transcripts.Format) == set(transcription.FORMATS)


def test_every_format_has_the_same_words(call: Caller, ones: Path) -> None:
    save(ones / "claps.wav", _claps(), rate=8000)
    using = ("--recogniser", _name(ones))
    document = json.loads(call.succeeded("transcribe", "claps.wav", "--json", *using))
    assert document["text"] == " ".join(["ha"] * 9) and document["duration"] == 9
    assert document["words"][1] == {"word": "ha", "start": 1.25, "end": 1.75, "confidence": 0.5}
    for ending, format in ((".txt", "text"), (".srt", "srt"), (".vtt", "vtt"), (".json", "json")):
        assert call.succeeded("transcribe", "claps.wav", "-o", f"said{ending}", *using) == f"said{ending}\n"
        assert call.succeeded("transcribe", "claps.wav", "--format", format, *using) == (ones / f"said{ending}").read_text()
    assert json.loads((ones / "said.json").read_text()) == document


def test_several_recordings_are_transcribed_though_one_fails(
    call: Caller, ones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go: list[int] = []
    monkeypatch.setattr(devices, "forget_programs", lambda: let_go.append(1))
    (ones / "in").mkdir()
    save(ones / "in" / "b.wav", _claps(2.0), rate=8000)
    (ones / "in" / "a.wav").write_bytes(b"no sound")
    outcome = call("transcribe", "in", "-o", "out", "--recogniser", _name(ones))
    assert outcome.code == 1 and "failed: in/a.wav" in outcome.err.replace("\\", "/")
    assert [path.name for path in files(ones / "out")] == ["b.txt"]
    assert (ones / "out" / "b.txt").read_text() == "ha ha\n"
    assert len(let_go) == 2, "programs are let go of after each"


def test_draws_of_a_separation_mark_words(call: Caller, ones: Path) -> None:
    save(ones / "speech.wav", _claps(), rate=8000)
    (ones / "draws").mkdir()
    for n in (1, 2):
        other = _claps()
        other[8000 * n : 8000 * (n + 1)] = 0.01
        save(ones / "draws" / f"speech-{n}.wav", other, rate=8000)
    line = ("transcribe", "speech.wav", "--draws", "draws", "--recogniser", _name(ones))
    assert call.succeeded(*line).split() == ["ha", "ha(?)", "ha(?)", *["ha"] * 6]
    assert call.succeeded("transcribe", "speech.wav", "--draws", ".", *line[-2:]).split() == ["ha", "ha(?)", "ha(?)", *["ha"] * 6]
    (ones / "stems").mkdir()
    for name in ("speech.wav", "music.wav"):
        save(ones / "stems" / name, _claps(), rate=8000)
    assert "there are no draws in stems" in call.refused("transcribe", "speech.wav", "--draws", "stems", *line[-2:])
    save(ones / "draws" / "speech-3.wav", _claps(8.0), rate=8000)
    assert "speech-3.wav lasts 8 s, and speech.wav 9 s" in call.refused(*line)
    assert "belong to one recording" in call.refused(*line[:2], "speech.wav", *line[2:])


def test_recordings_of_one_name_are_refused_and_several_need_a_folder(call: Caller, ones: Path) -> None:
    (ones / "in").mkdir()
    for name in ("a.wav", "b.wav"):
        save(ones / "in" / name, _claps(2.0), rate=8000)
    using = ("--recogniser", _name(ones), "-q")
    call.succeeded("transcribe", "in", "-o", "out", *using)
    assert [path.name for path in files(ones / "out")] == ["a.txt", "b.txt"]
    save(ones / "in" / "a.flac", _claps(1.0), rate=8000, format="FLAC")
    call.succeeded("transcribe", "in", "-o", "both", *using)
    assert [path.name for path in files(ones / "both")] == ["a.flac.txt", "a.wav.txt", "b.txt"]
    (ones / "other").mkdir()
    save(ones / "other" / "b.wav", _claps(1.0), rate=8000)
    assert "would both be called" in call.refused("transcribe", "in", "other", "-o", "out", *using)
    refused = call.refused("transcribe", "in", "-o", "all.srt", *using)
    assert "must be a folder for several recordings" in refused and not (ones / "all.srt").exists()


def test_links_are_followed_and_pipes_are_left_alone(call: Caller, ones: Path) -> None:
    save(ones / "claps.wav", _claps(2.0), rate=8000)
    using = ("--recogniser", _name(ones), "-q")
    (ones / "there").mkdir()
    (ones / "link.txt").symlink_to(ones / "there" / "said.txt")
    call.succeeded("transcribe", "claps.wav", "-o", "link.txt", *using)
    assert (ones / "link.txt").is_symlink() and (ones / "there" / "said.txt").read_text() == "ha ha\n"
    os.mkfifo(ones / "pipe.txt")
    assert "is not a file that can be replaced" in call.refused("transcribe", "claps.wav", "-o", "pipe.txt", *using)
    assert (ones / "pipe.txt").is_fifo()


def test_the_documented_plug_in_works(call: Caller, ones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With something in the place of the library, which downloads a model."""
    _, _, example = str(transcription.__doc__).partition("plugged in (`Recogniser`).")
    (ones / "my_recognisers.py").write_text(textwrap.dedent(example.partition("In a file")[0]))
    said = types.SimpleNamespace(word=" Hello", start=0.5, end=0.75, probability=0.9)
    model = types.SimpleNamespace(transcribe=lambda speech, word_timestamps: ([types.SimpleNamespace(words=[said])], None))
    monkeypatch.setitem(sys.modules, "faster_whisper", types.SimpleNamespace(WhisperModel=lambda name: model))
    save(ones / "claps.wav", _claps(2.0), rate=8000)
    assert call.succeeded("transcribe", "claps.wav", "--recogniser", "my_recognisers:Whisper") == "Hello\n"
    del sys.modules["my_recognisers"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--recogniser", "whisper"), "choose pocketsphinx, attention-asr or your own as MODULE:CALLABLE"),
        (("--recogniser", "no_such_module:Thing"), "cannot be made (ModuleNotFoundError"),
        (("--recogniser", "pocketsphinx", "--weights", "claps.wav"), "--weights are for attention-asr"),
        (("--recogniser", "mine:Leaving"), "cannot be made (SystemExit: 3)"),
        (("--recogniser", "json:dumps"), "cannot be made (TypeError"),
        (("--recogniser", "json:JSONDecoder"), "lacks one of sample_rate"),
        (("--recogniser", "mine:Endless"), "seconds of 0"),
        (("--recogniser", "mine:Broken"), "failed (RuntimeError: boom)"),
        (("-o", "said.doc"), "is not a transcript format"),
        (("--weights", "claps.wav"), "holds no weights"),
        (("--weights", "claps.wav", "--recogniser", "json:JSONDecoder"), "--weights are for attention-asr"),
    ],
)
def test_bad_choices_are_refused(call: Caller, ones: Path, arguments: tuple[str, ...], says: str) -> None:
    save(ones / "claps.wav", _claps(1.0), rate=8000)
    assert says in call.refused("transcribe", "claps.wav", *(a.replace("mine", f"mine_{ones.name}") for a in arguments))


@pytest.mark.parametrize("case", [case for case in UNUSABLE if case != "silence"])
def test_unusable_audio_is_refused_by_name(call: Caller, ones: Path, case: str) -> None:
    make, word = UNUSABLE[case]
    bad = ones / f"bad {case}.wav"
    make(bad)
    refused = call.refused("transcribe", bad, "-o", "said.txt", "--recogniser", _name(ones))
    assert str(bad) in refused and word in refused and not (ones / "said.txt").exists()


def test_the_transcript_of_a_silent_file_is_empty(call: Caller, ones: Path) -> None:
    save(ones / "silent.wav", np.zeros(8000, np.float32), rate=8000)
    assert call.succeeded("transcribe", "silent.wav", "--recogniser", _name(ones), "--json").count('"words": []') == 1


def test_the_recogniser_that_ships_says_nothing_but_digits(call: Caller, ones: Path) -> None:
    pytest.importorskip("sentencepiece", reason="SentencePiece is not installed")
    save(ones / "claps.wav", _claps(3.0), rate=8000)
    found = json.loads(call.succeeded("transcribe", "claps.wav", "--recogniser", "attention-asr", "--json"))
    assert {word["word"] for word in found["words"]} <= set(DIGITS)
    assert all(0 <= word["start"] <= word["end"] <= 3 and 0 <= word["confidence"] <= 1 for word in found["words"])


def test_pocketsphinx_is_what_is_taken_where_nothing_else_is_said(ones: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    found = transcribe(save(ones / "claps.wav", _claps(2.0), rate=8000))
    assert found.duration == 2 and all(0 <= word.start <= word.end <= 2 and 0 <= word.confidence <= 1 for word in found.words)
