"""Cleaning: from a detection to stems, with nothing else given, and `bayessep clean` on files and folders."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayessep import audio, cleaning, cleaning_files, detection, metrics, recordings, repetition, segments, separators, streaming
from bayessep.broadcast import Broadcast, generate_broadcast
from bayessep.cleaning import Cleaning, clean, hear
from bayessep.detection import Detection
from bayessep.errors import UserError
from bayessep.inference import loop
from bayessep.preparation import Spectra
from bayessep.timeline import BOTH, MUSIC, SILENCE, SPEECH, Segment, runs
from tests.benchmarks.cleaning import oracle, spoilt
from tests.commandline import Caller, files, load, save

pytestmark = pytest.mark.loose_arrays
RATE = 8000
SMALL = Cleaning(dataclasses.replace(cleaning.MODEL, bases=8, sweeps=20, training_sweeps=20, overlap=0.5))
FAST = ("--bases", "4", "--sweeps", "3", "--training-sweeps", "3", "-q")


@pytest.fixture(scope="module")
def made() -> Broadcast:
    """Speech alone, music alone, both, and all three once more."""
    return generate_broadcast(3, seconds=24.0, sample_rate=RATE, jingle_seconds=2.0, labelled_fraction=1.0, layout="programme")


def _where(truth: list[Segment], label: str, inside: float = 0.0) -> np.ndarray:
    """Samples that carry a label, and so many seconds from its ends."""
    on = np.zeros(round(truth[-1].end * RATE), bool)
    for s in truth:
        if s.label == label:
            on[round((s.start + inside) * RATE) : round((s.end - inside) * RATE)] = True
    return on


def _si_sdr(true: np.ndarray, estimate: np.ndarray, where: np.ndarray) -> float:
    return float(metrics.si_sdr(true[where], estimate[where]))


# --- what is made of a detection -----------------------------------------------------------------------------------------

TRUTH = [
    Segment(0, 5, SPEECH), Segment(5, 8, BOTH), Segment(8, 12, MUSIC), Segment(12, 13, SILENCE), Segment(13, 17, SPEECH),
]  # fmt: skip
TIMES = np.arange(0.05, 17, 0.1)


def _at(frames: np.ndarray, start: float, stop: float) -> list[bool]:
    return sorted(set(frames[(start <= TIMES) & (stop > TIMES)].tolist()))


def test_only_stretches_away_from_their_edges_are_believed() -> None:
    heard = hear(oracle(TRUTH), TIMES)
    assert _at(heard.speech, 0, 4.5) == _at(heard.given.only_speech, 0, 4.5) == [True]
    assert _at(heard.given.target, 4.6, 8.4) == [True]  # both, and half a second before and after it
    assert _at(heard.music, 8.5, 12) == _at(heard.given.only_music, 8.5, 12) == [True]
    assert _at(heard.given.only_speech, 12.5, 17) == [True] and _at(heard.speech, 12, 13) == [False]  # silence teaches nothing
    settled = heard.given.target.astype(int) + heard.given.only_speech + heard.given.only_music
    assert settled.tolist() == [1] * len(TIMES)
    assert 0 < heard.given.p_music.min() and heard.given.p_music.max() < 1


@pytest.mark.parametrize(("start", "label"), [(2, MUSIC), (2, BOTH), (6, SPEECH), (6, MUSIC), (9, SPEECH)])
def test_a_second_that_is_mislabelled_is_not_believed(start: int, label: str) -> None:
    parts = [s for s in TRUTH if s.end <= start or s.start >= start + 1]
    (cut,) = [s for s in TRUTH if s not in parts]
    wrong = [cut._replace(end=float(start)), Segment(start, start + 1, label), cut._replace(start=start + 1.0)]
    heard = hear(oracle(sorted([*parts, *wrong])), TIMES)
    assert _at(heard.given.target, start, start + 1) == [True]
    assert not (heard.speech | heard.music)[(start <= TIMES) & (start + 1 > TIMES)].any()


def test_a_doubtful_label_is_not_believed() -> None:
    sure = oracle(TRUTH)
    doubtful = hear(sure._replace(music=np.where(sure.music < 0.5, 0.55, sure.music).astype(np.float32)), TIMES)
    assert not doubtful.given.only_speech.any() and not doubtful.speech.any()


def test_hardly_any_music_is_none() -> None:
    heard = hear(oracle([Segment(0, 8, SPEECH), Segment(8, 9, BOTH), Segment(9, 17, SPEECH)]), TIMES)
    assert heard.given.only_speech.all()


@pytest.mark.parametrize("first", [0.0, 8.0])
def test_music_too_short_to_be_believed_is_not_set_aside(first: float) -> None:
    around = [Segment(0, first, SPEECH)] if first else []
    heard = hear(oracle([*around, Segment(first, first + 1.4, MUSIC), Segment(first + 1.4, 17, SPEECH)]), TIMES)
    assert not heard.given.only_music.any()  # it passes as speech, and cannot be both


@pytest.mark.parametrize("quiet", [0.0, 5.0])
def test_short_music_is_no_mistake_where_there_is_nothing_else(quiet: float) -> None:
    """A jingle of 1.4 s, alone or between silences."""
    end = quiet + 1.4
    around = [Segment(0.0, quiet, SILENCE), Segment(end, end + quiet, SILENCE)] if quiet else []
    truth = sorted([*around, Segment(quiet, end, MUSIC)])
    times = np.arange(0.05, end + quiet, 0.1)
    playing = (quiet <= times) & (times < end)
    heard = hear(oracle(truth), times)
    assert heard.given.only_music[playing].all() and not heard.given.only_speech[playing].any()
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.1, round(1.2 * RATE)).astype(np.float32)
    mixture = np.pad(sound, round((quiet + 0.1) * RATE))
    stems = clean(mixture[None], RATE, oracle(truth), SMALL)
    np.testing.assert_allclose(stems.music[0], mixture, atol=1e-6)
    (note,) = stems.account.notes
    assert f"only music was detected: {'everything else' if quiet else 'its stem'}" in note


def test_repeats_are_in_the_catalogue_once() -> None:
    rng = np.random.default_rng(0)
    period, other = rng.gamma(0.5, size=(96, 40)), rng.gamma(0.5, size=(64, 40))
    loop = np.concatenate([period] * 3) * rng.uniform(0.95, 1.05, (288, 40))
    mixture = np.concatenate([other, other, other])
    (kept,) = repetition.distinct([loop], mixture, 1000)
    assert len(kept) == 96
    assert [len(one) for one in repetition.distinct([loop, period, other], mixture, 1000)] == [96, 64], "each a stretch of its own"
    (kept,) = repetition.distinct([loop, other], mixture, 70)  # of what is too much, what the mixture is like
    np.testing.assert_array_equal(kept, other)
    assert repetition.distinct([], mixture, 10) == repetition.distinct([0 * other], mixture, 10) == []


def test_no_more_music_is_looked_through_than_it_takes() -> None:
    """Finding repeats takes the square of it. No piece keeps the others out, however long it is and however early."""
    ends = [0.0, 20.0, 23.0, 29.0, 31.0, 41.0]
    labels = [Segment(a, b, label) for a, b, label in zip(ends, ends[1:], [MUSIC, SPEECH] * 3, strict=False)]
    times = np.arange(0.0, 41.0, 0.1)
    whole, some = (
        runs(hear(oracle(labels), times, dataclasses.replace(SMALL, most_music=seconds)).music) for seconds in (300.0, 17.0)
    )
    first, middle, last = (b - a for a, b in whole)
    assert middle < 17 / 3 * 10 < 60 < last < first
    assert [a for a, _ in some] == [a for a, _ in whole]  # beginnings
    kept = [b - a for a, b in some]
    assert kept == [(170 - middle) // 2 + (170 - middle) % 2, middle, (170 - middle) // 2]


def test_what_the_catalogue_is_chosen_by_lies_all_over_the_recording() -> None:
    on = np.zeros(1000, bool)
    on[100:400] = on[700:900] = True
    kept = streaming._all_over(on, 100, 20)
    assert not kept[~on].any() and 80 <= kept.sum() <= 100
    assert kept[100:120].all() and kept[880:900].all() and kept[700:900].sum() >= 30
    np.testing.assert_array_equal(streaming._all_over(on, 500, 20), on)


# --- stems ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["oracle", "spoilt"])
def test_what_is_mixed_is_separated_and_the_rest_passes(made: Broadcast, how: str) -> None:
    found = oracle(made.segments) if how == "oracle" else spoilt(made.segments, 1)
    stems = clean(made.mixture[None], RATE, found, SMALL)
    speech, music = stems.speech[0], stems.music[0]
    both = _where(made.segments, BOTH)
    assert _si_sdr(made.speech, speech, both) > _si_sdr(made.speech, made.mixture, both) + 6
    assert _si_sdr(made.music, music, both) > _si_sdr(made.music, made.mixture, both) + 6
    assert _si_sdr(made.speech, speech, _where(made.segments, SPEECH)) > 20  # with its edges, which are not believed
    assert _si_sdr(made.speech, speech, _where(made.segments, SPEECH, inside=0.6)) > 30
    np.testing.assert_allclose(speech + music, made.mixture, atol=1e-6)
    if how == "oracle":
        inner = _where(made.segments, SPEECH, inside=0.6)
        np.testing.assert_allclose(speech[inner], made.mixture[inner], atol=1e-6)
    learned = stems.account.learned
    assert learned is not None and (learned.speech_from, learned.music_from) == ("recording", "recording")
    assert stems.account.notes == ()


@pytest.mark.parametrize("in_pieces", [False, True])
def test_speech_that_is_taken_for_both_passes(
    made: Broadcast, in_pieces: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector is in doubt over the last stretch of speech, and wrong; the model hears no music in it."""
    last = [s for s in made.segments if s.label == SPEECH][-1]
    found = oracle([s._replace(label=BOTH) if s is last else s for s in made.segments])
    doubt = np.arange(len(found.music)) * found.hop
    found.music[(doubt >= last.start) & (doubt < last.end)] = 0.6
    where = _where([last, *made.segments[-1:]], SPEECH, inside=0.6)
    monkeypatch.setattr(streaming, "BLOCK_SECONDS", 5.0)
    reached = []
    for faint in (None, 13.0):
        settings = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, faint=faint))
        if in_pieces:
            paths = tmp_path / "speech.wav", tmp_path / "music.wav"
            cleaning.clean_file(save(tmp_path / "radio.wav", made.mixture, RATE, "FLOAT"), found, *paths, settings)
            speech = load(paths[0])[0]
        else:
            speech = clean(made.mixture[None], RATE, found, settings).speech[0]
        reached.append(_si_sdr(made.speech, speech, where))
    assert reached[0] < 30 < reached[1]


@pytest.mark.parametrize("channels", [1, 2])
def test_stems_have_the_shape_of_the_mixture(made: Broadcast, channels: int) -> None:
    mixture = np.stack([made.mixture, 0.5 * made.mixture])[:channels, :-7]
    stems = clean(mixture, RATE, oracle(made.segments), dataclasses.replace(SMALL, model=_few(SMALL)))
    assert stems.speech.shape == stems.music.shape == mixture.shape
    np.testing.assert_allclose(stems.speech + stems.music, mixture, atol=1e-6)


def test_inference_knows_where_its_frames_lie_and_its_music_was_cut(
    made: Broadcast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory as in blocks: frames on both sides of a gap, and stretches of music, do not follow one another."""
    seen: list[Spectra] = []
    build = separators.build_problem
    monkeypatch.setattr(separators, "build_problem", lambda of, *rest, **more: seen.append(of) or build(of, *rest, **more))
    few = dataclasses.replace(SMALL, model=_few(SMALL))
    clean(made.mixture[None], RATE, oracle(made.segments), few)
    (whole,) = seen
    assert whole.times is not None and len(whole.times) == len(whole.target) and (np.diff(whole.times) > 0).all()
    assert whole.stretches and sum(whole.stretches) == len(whole.music) > 0
    audio.write(tmp_path / "made.wav", made.mixture[None], RATE, "FLOAT")
    cleaning.clean_file(tmp_path / "made.wav", oracle(made.segments), tmp_path / "s.wav", tmp_path / "m.wav", few)
    assert seen[-1].stretches == whole.stretches


def _few(settings: Cleaning) -> Any:
    return dataclasses.replace(settings.model, bases=4, sweeps=3, training_sweeps=3)


@pytest.mark.parametrize("label", [SPEECH, MUSIC])
def test_a_recording_of_one_kind_is_its_own_stem(made: Broadcast, label: str) -> None:
    stems = clean(made.mixture[None], RATE, oracle([Segment(0, 24, label)]), SMALL)
    np.testing.assert_allclose(getattr(stems, label)[0], made.mixture, atol=1e-6)
    assert stems.account.learned is None and label in stems.account.notes[0]


SAID = {
    "only speech was": [Segment(0.0, 24.0, SPEECH)],
    "1.0 s of music are too little": [Segment(0.0, 8.0, SPEECH), Segment(8.0, 9.0, BOTH), Segment(9.0, 24.0, SPEECH)],
    "neither speech nor music": [Segment(0.0, 24.0, SILENCE)],
    "only music was": [Segment(0.0, 24.0, MUSIC)],
}


@pytest.mark.parametrize("words", SAID)
def test_what_is_said_is_what_was_detected(made: Broadcast, words: str) -> None:
    """Where nothing but speech passes, music may have been detected, and where nothing does, speech may not."""
    account = clean(made.mixture[None], RATE, oracle(SAID[words]), SMALL).account
    (note,) = account.notes
    assert words in note and [other for other in SAID if other in note] == [words]


def test_recordings_of_about_the_same_length_share_their_programs(made: Broadcast) -> None:
    def compiled(samples: int) -> int:
        clean(made.mixture[None, :samples], RATE, oracle(made.segments), SMALL)
        return loop._advance._cache_size()

    whole = len(made.mixture)
    assert compiled(whole) == compiled(whole - RATE // 10) < compiled(whole // 3)


def test_what_is_told_in_general_was_not_learned_here() -> None:
    frames = np.random.default_rng(0).uniform(0.5, 1.0, (20, 5)).astype(np.float32)
    found = cleaning.learn(frames, [frames[:5]], frames, np.arange(5.0), 10.0, SMALL)
    assert (found.speech_from, found.music_from) == ("general", "general")
    assert found.speech_seconds == found.music_seconds == 0 and len(found.music) == 0
    assert ["2.0 s of speech" in found.notes[0], "0.5 s of music" in found.notes[1]] == [True, True]
    assert all("could be found alone with certainty" in note for note in found.notes)  # of what has the label, there may be more


def test_music_that_loops_is_heard_in_full() -> None:
    """Ten seconds of a tight loop: what is learned from is one turn of it, and that is enough."""
    rng = np.random.default_rng(0)
    speech = rng.uniform(0.5, 1.0, (20, 40)).astype(np.float32)
    turn = rng.gamma(0.5, size=(repetition._CHUNK, 40)).astype(np.float32)
    found = cleaning.learn(speech, [np.concatenate([turn] * 20)], speech, np.arange(40.0), 64.0, SMALL)
    assert found.music_from == "recording" and len(found.music) == len(turn)
    assert found.music_seconds == 0.5 and not any("music" in note for note in found.notes)


def test_silence_is_refused() -> None:
    with pytest.raises(UserError, match="silent"):
        clean(np.zeros((1, 4 * RATE), np.float32), RATE, oracle([Segment(0, 4, BOTH)]), SMALL)


@pytest.mark.parametrize("what", [SPEECH, MUSIC])
def test_what_is_never_heard_alone_is_told_in_general(made: Broadcast, what: str) -> None:
    """The general templates are of real sound, and this is not: what they owe it is more than nothing."""
    keep = ~_where(made.segments, what)
    truth, at = [], 0.0
    for s in made.segments:
        if s.label != what:
            truth.append(s._replace(start=at, end=at + s.end - s.start))
            at = truth[-1].end
    speech, music = made.speech[keep], made.music[keep]
    stems = clean((speech + music)[None], RATE, oracle(truth), SMALL)
    both = _where(truth, BOTH)
    if what == SPEECH:  # general music cannot be told from generated speech
        assert _si_sdr(speech, stems.speech[0], both) > _si_sdr(speech, speech + music, both) + 1
    assert np.abs(stems.music[0][both]).max() > 0.01
    learned = stems.account.learned
    assert learned is not None and getattr(learned, f"{what}_from") == "general"
    assert f"no {what} could be found alone with certainty" in stems.account.notes[0]
    np.testing.assert_allclose(stems.speech[0] + stems.music[0], speech + music, atol=1e-6)


def test_settled_blocks_are_not_fitted(made: Broadcast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks: in the first nothing is mixed, in the second only what it sees of the third."""
    monkeypatch.setattr(streaming, "BLOCK_SECONDS", 8.5)
    monkeypatch.setattr(streaming, "CONTEXT_SECONDS", 1.0)
    whole, fits, told = separators.fit_problem, [], []

    def fit_problem(*arguments: Any) -> Any:
        fits.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(separators, "fit_problem", fit_problem)
    radio = save(tmp_path / "radio.wav", made.mixture, RATE, "FLOAT")
    few = dataclasses.replace(SMALL, model=_few(SMALL))
    for start, fitted, separated in ((17.7, 2, 1), (24.0, 0, 0)):
        heard = oracle([Segment(0.0, start, SPEECH), *([Segment(start, 24.0, BOTH)] if start < 24 else [])])
        fits.clear()
        told.clear()
        stems = tmp_path / "speech.wav", tmp_path / "music.wav"
        found = cleaning.clean_file(radio, heard, *stems, few, progress=lambda *what: told.append(what[:3]))
        assert len(fits) == separated
        assert [what for what in told if what[0] == "templates"] == [("templates", n + 1, fitted) for n in range(fitted)]
        speech, music = (load(path)[0] for path in stems)
        np.testing.assert_allclose(speech + music, made.mixture, atol=1e-6)
        np.testing.assert_allclose(speech[: 16 * RATE], made.mixture[: 16 * RATE], atol=1e-6)
        assert (found.learned is None) == (fitted == 0)


# --- the command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def heard(made: Broadcast, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A detector that knows; what it was called with."""
    seen: list[Path] = []

    def detect(path: Path, *, progress: Any = None) -> Detection:
        seen.append(path)
        audio.read(path)  # which finds out what cannot be read
        return oracle(made.segments)

    monkeypatch.setattr(detection, "detect", detect)
    monkeypatch.setenv("BAYESSEP_CACHE", "off")
    return seen


@pytest.fixture
def radio(made: Broadcast, tmp_path: Path) -> Path:
    return save(tmp_path / "radio.wav", made.mixture, RATE, "PCM_24")


def test_clean_writes_what_it_says(call: Caller, radio: Path, heard: list[Path], made: Broadcast, tmp_path: Path) -> None:
    out = tmp_path / "cleaned"
    document = json.loads(call.succeeded("clean", radio, "-o", out, *FAST, "--seed", 5, "--json"))
    assert {p.name for p in out.iterdir()} == {"radio"}
    assert {p.name for p in (out / "radio").iterdir()} == set(cleaning_files.FILES.values())
    (row,) = document["recordings"]
    assert (row["status"], row["error"], document["counts"]) == ("cleaned", None, {"cleaned": 1, "skipped": 0, "failed": 0})

    about = json.loads((out / "radio" / "clean.json").read_text())
    assert {name: type(value).__name__ for name, value in about.items()} == {
        "command": "str", "version": "str", "device": "str", "seed": "int", "settings": "dict", "input": "dict",
        "segments": "list", "seconds_of": "dict", "detection": "dict", "learned": "dict", "frames": "dict", "notes": "list",
        "seconds": "float", "output_gain": "float", "real_time_factor": "float", "output": "dict", "weights": "dict",
    }  # fmt: skip
    assert about["seed"] == 5 and about["settings"]["model"]["bases"] == 4
    assert about["input"]["frames"] == 24 * RATE and about["input"]["sample_rate"] == RATE
    assert len(about["detection"]["p_speech"]) == len(about["detection"]["p_music"]) == 240
    assert about["learned"]["speech"]["from"] == about["learned"]["music"]["from"] == "recording"
    assert about["learned"]["music"]["seconds"] < 6  # of a jingle of two seconds
    assert set(about["seconds_of"]) == {SPEECH, MUSIC, BOTH, SILENCE} and sum(about["seconds_of"].values()) == 24
    frames = about["frames"]
    assert len({len(frames[n]) for n in ("p_music", "uncertainty_speech", "uncertainty_music")}) == 1

    speech, music = load(out / "radio" / "speech.wav"), load(out / "radio" / "music.wav")
    np.testing.assert_allclose(speech + music, about["output_gain"] * load(radio), atol=1e-6)
    written = segments.read(out / "radio" / "segments.csv")
    assert [s.label for s in written] == [s.label for s in made.segments]
    np.testing.assert_allclose([s[:2] for s in written], [s[:2] for s in made.segments], atol=1e-3)
    page = (out / "radio" / "report.html").read_text()
    assert page.count("<audio") == page.count("data:audio/ogg") == page.count("data:image/png") == 3
    assert 'class="wave"' in page and "area speech" in page and "area music" in page and "http" not in page
    assert not re.search(r"\$[a-z]", page)


def test_same_seed_same_bytes(call: Caller, radio: Path, heard: list[Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        call.succeeded("clean", radio, "-o", tmp_path / name, *FAST)
    for name in ("speech.wav", "music.wav", "segments.csv"):
        assert (tmp_path / "a" / "radio" / name).read_bytes() == (tmp_path / "b" / "radio" / name).read_bytes()


def test_long_recordings_are_cleaned_in_pieces(
    call: Caller, made: Broadcast, heard: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "LONG_SECONDS", 10.0)
    monkeypatch.setattr("bayessep.streaming.BLOCK_SECONDS", 9.0)
    monkeypatch.setattr("bayessep.streaming.CONTEXT_SECONDS", 1.0)
    radio = save(tmp_path / "radio.wav", np.stack([made.mixture, made.mixture]), RATE, "FLOAT")
    call.succeeded("clean", radio, "-o", tmp_path, *FAST)
    speech, music = load(tmp_path / "radio" / "speech.wav"), load(tmp_path / "radio" / "music.wav")
    np.testing.assert_allclose(speech + music, load(radio), atol=1e-6)
    both = _where(made.segments, BOTH)
    assert _si_sdr(made.speech, speech[0].astype(np.float32), both) > _si_sdr(made.speech, made.mixture, both) + 3
    inner = _where(made.segments, SPEECH, inside=0.6)
    np.testing.assert_allclose(speech[0, inner], made.mixture[inner], atol=1e-6)
    page = (tmp_path / "radio" / "report.html").read_text()
    assert 'src="speech.wav"' in page and "data:audio" not in page
    about = json.loads((tmp_path / "radio" / "clean.json").read_text())
    assert max(about["frames"]["uncertainty_speech"]) > 0 and about["learned"]["music"]["from"] == "recording"


def test_a_failure_is_listed_and_the_others_are_cleaned(
    call: Caller, radio: Path, heard: list[Path], made: Broadcast, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.wav").write_text("not audio at all " * 20)
    save(folder / "b.wav", np.zeros(RATE), RATE)
    radio.rename(folder / "deep" / "radio.wav")
    out = tmp_path / "out"
    outcome = call("clean", folder, tmp_path / "missing.wav", "-o", out, *FAST, "--json")
    assert outcome.code == 1
    document = json.loads(outcome.out)
    assert [row["status"] for row in document["recordings"]] == ["failed", "failed", "cleaned", "failed"]
    assert document["counts"] == {"cleaned": 1, "skipped": 0, "failed": 3}
    for row, word in zip(document["recordings"], ("not audio", "silent", None, "no such file"), strict=True):
        assert row["error"] is None if word is None else word in row["error"] and row["input"] in row["error"]
    assert {p.relative_to(out).as_posix() for p in out.rglob("*.wav")} == {"deep/radio/speech.wav", "deep/radio/music.wav"}
    assert not (out / "a").exists() and not (out / "b").exists()
    told = call("clean", folder, "-o", out, *FAST)
    assert told.code == 1 and "1 cleaned, 2 failed" in told.out and told.out.count("failed: ") == 2


@pytest.mark.parametrize("content", [None, "text", "silence"])
def test_the_only_recording_is_refused(call: Caller, heard: list[Path], tmp_path: Path, content: str | None) -> None:
    bad = tmp_path / "bad.wav"
    if content == "text":
        bad.write_text("hello " * 50)
    elif content:
        save(bad, np.zeros(2 * RATE), RATE)
    assert str(bad) in call.refused("clean", bad, "-o", tmp_path / "out", "-q")


def test_a_folder_without_audio_is_refused(call: Caller, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no audio" in call.refused("clean", tmp_path / "empty", "-o", tmp_path / "out", "-q")


def test_recordings_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("a/x.wav", "a/x.mp3", "a/y.wav", "b/y.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    planned = cleaning_files.tasks([tmp_path / "a", tmp_path / "a" / "x.wav"], Path("out"))  # one of them twice
    assert [t.folder.as_posix() for t in planned] == ["out/x.mp3", "out/x.wav", "out/y"]
    with pytest.raises(UserError, match="different folders"):
        cleaning_files.tasks([tmp_path / "a" / "y.wav", tmp_path / "b" / "y.wav"], Path("out"))


def test_existing_results_are_skipped_if_they_are_the_same(
    call: Caller, radio: Path, heard: list[Path], made: Broadcast, tmp_path: Path
) -> None:
    line = ("clean", radio, "-o", tmp_path / "out", *FAST, "--json")
    call.succeeded(*line)
    before = files(tmp_path / "out")
    skipped = json.loads(call.succeeded(*line, "--skip-existing"))
    assert skipped["counts"]["skipped"] == 1 and len(heard) == 1 and files(tmp_path / "out") == before
    call.succeeded(*line)  # is not asked to skip
    assert len(heard) == 2
    call.succeeded(*line, "--skip-existing", "--seed", 1)
    assert len(heard) == 3
    (tmp_path / "out" / "radio" / "music.wav").unlink()
    call.succeeded(*line, "--skip-existing", "--seed", 1)
    assert len(heard) == 4
    save(radio, made.mixture[: 12 * RATE], RATE)  # another recording of the same name
    call.succeeded(*line, "--skip-existing", "--seed", 1)
    assert len(heard) == 5


def test_an_interrupted_run_goes_on(
    call: Caller, radio: Path, heard: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path / "second.wav"
    second.write_bytes(radio.read_bytes())
    whole = cleaning.clean

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if len(heard) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    line = ("clean", radio, second, "-o", tmp_path / "out", *FAST, "--json", "--skip-existing")
    with monkeypatch.context() as patch:
        patch.setattr(cleaning, "clean", interrupted)
        outcome = call(*line)
    assert outcome.code == 130 and "--skip-existing resumes" in outcome.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["radio"]
    document = json.loads(call.succeeded(*line))
    assert [row["status"] for row in document["recordings"]] == ["skipped", "cleaned"]
    assert [p.name for p in heard] == ["radio.wav", "second.wav", "second.wav"]
