"""What the command line answers to input that is wrong, and to input that is only odd."""

import errno
import io
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bayessep import cli, detection, pipeline, shipped
from bayessep.detector_training import Recipe
from bayessep.errors import UserError
from bayessep.models import speech_music_detector as detector
from tests.commandline import RATE, TINY, UNUSABLE, Caller, Files, files, load, save, tone


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESSEP_CACHE", "off")


# --- files that cannot be used -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Files._fields)
@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_audio_is_refused_by_name(call: Caller, given: Files, tmp_path: Path, role: str, case: str) -> None:
    make, word = UNUSABLE[case]
    bad = tmp_path / f"bad {case}.wav"
    make(bad)
    given = given._replace(**{role: bad})
    complaint = call.refused("separate", given.mix, *given.known, "-o", tmp_path / "out", *TINY)
    assert str(bad) in complaint and word in complaint


@pytest.mark.parametrize("option", ["--reference", "--estimate"])
@pytest.mark.parametrize("case", UNUSABLE)
def test_evaluate_refuses_unusable_audio(call: Caller, given: Files, tmp_path: Path, option: str, case: str) -> None:
    make, word = UNUSABLE[case]
    bad = tmp_path / f"bad {case}.wav"
    make(bad)
    paths = {"--reference": given.speech, "--estimate": given.speech} | {option: bad}
    complaint = call.refused("evaluate", *(x for item in paths.items() for x in item))
    # Another length may be found before silence or damage is.
    assert str(bad) in complaint and (word in complaint or "samples" in complaint)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a detector that has learned nothing."""
    recipe = Recipe(network="frames", neither=True, standardised=False, head="single", feature="LMS", bands=20)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    shipped.write_file(path, detection.weights_of(recipe, [detector.init(recipe.detector, jax.random.key(0))]))
    return path


@pytest.mark.parametrize("case", UNUSABLE)
def test_detect_refuses_unusable_audio(call: Caller, weights: Path, tmp_path: Path, case: str) -> None:
    make, word = UNUSABLE[case]
    bad = tmp_path / f"bad {case}.wav"
    make(bad)
    complaint = call.refused("detect", bad, "--weights", weights, "-o", tmp_path / "new" / "labels.csv", "-q")
    assert str(bad) in complaint and word in complaint


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_audio_is_refused(call: Caller, given: Files, tmp_path: Path) -> None:
    given.speech.chmod(0)
    complaint = call.refused("separate", given.mix, *given.known, "-o", tmp_path / "out")
    assert str(given.speech) in complaint and "permission" in complaint


def test_mixture_may_not_be_a_folder(call: Caller, given: Files, tmp_path: Path) -> None:
    complaint = call.refused("separate", tmp_path, *given.known, "-o", tmp_path / "out")
    assert str(tmp_path) in complaint and "directory" in complaint


@pytest.mark.parametrize("option", ["--speech", "--music"])
def test_folder_without_audio_is_refused(call: Caller, given: Files, tmp_path: Path, option: str) -> None:
    folder = tmp_path / "nothing here"
    folder.mkdir()
    known = {"--speech": given.speech, "--music": given.music} | {option: folder}
    complaint = call.refused("separate", given.mix, *(x for i in known.items() for x in i), "-o", tmp_path / "out")
    assert str(folder) in complaint


@pytest.mark.parametrize("role", ["speech", "music"])
def test_example_shorter_than_a_window_is_refused(call: Caller, given: Files, tmp_path: Path, role: str) -> None:
    given = given._replace(**{role: save(tmp_path / "short.wav", tone(0.01, 300))})
    complaint = call.refused("separate", given.mix, *given.known, "-o", tmp_path / "out")
    assert "short.wav is too short" in complaint


# --- too little, too much, contradictions --------------------------------------------------------------------------------


def test_something_must_be_known(call: Caller, given: Files, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    assert "--speech" in call.refused("separate", given.mix, "--music", given.music, *out)
    assert "--music" in call.refused("separate", given.mix, "--speech", given.speech, *out)
    assert "--music" in call.refused("separate", given.mix, "--method", "unsupervised", *out)


LABELS = {
    "missing": (None, "does not exist"),
    "empty": ("", "empty"),
    "backwards": ("start,end,label\n1,0.5,speech\n", "line 2"),
    "not a number": ("start,end,label\n0,half,speech\n", "line 2"),
    "unknown label": ("start,end,label\n0,1,cheese\n", "cheese"),
    "overlap": ("start,end,label\n0,1,speech\n0.5,2,music\n", "line 3"),
    "binary": (b"\x00\xff\xfe\x80" * 30, "cannot be read"),
    "all beyond the end": ("start,end,label\n10,11,speech\n", "within"),
    "no speech": ("start,end,label\n0,1,music\n", "none"),
    "no music": ("start,end,label\n0,1,speech\n", "none"),
}


@pytest.mark.parametrize("case", LABELS)
def test_bad_labels_are_refused(call: Caller, given: Files, tmp_path: Path, case: str) -> None:
    text, word = LABELS[case]
    path = tmp_path / "labels.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    complaint = call.refused("separate", given.mix, "--labels", path, "-o", tmp_path / "out", *TINY)
    assert str(path) in complaint and word in complaint


def test_labels_of_everything_leave_nothing_to_separate(call: Caller, given: Files, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("start,end,label\n0,1,speech\n1,3,music\n")
    assert f"{path} labels all" in call.refused("separate", given.mix, "--labels", path, "-o", tmp_path / "out", *TINY)


def test_settings_that_contradict_are_refused(call: Caller, given: Files, tmp_path: Path) -> None:
    start = ("separate", given.mix, *given.known, "-o", tmp_path / "out")
    assert "chain" in call.refused(*start, "--rule", "printed", "--chain")
    assert "p_music" in call.refused(*start, "--p-music", "0")
    assert "level" in call.refused(*start, "--level", "0")
    assert "max_frequency" in call.refused(*start, "--max-frequency", "-1")


@pytest.mark.parametrize(
    "option", ["--p-music 0", "--level inf", "--level nan", "--max-frequency 0", "--joint-weight inf", "--filter-shape inf"]
)
def test_numbers_that_mean_nothing_are_refused(call: Caller, given: Files, tmp_path: Path, option: str) -> None:
    name, value = option.split()
    complaint = call.refused("separate", given.mix, *given.known, "-o", tmp_path / "out", "-q", name, value)
    assert name[2:].replace("-", "_") in complaint and "must be" in complaint


def test_usage_errors_have_code_2(call: Caller, given: Files, tmp_path: Path) -> None:
    for wrong in (("--bases", "0"), ("--bases", "many"), ("--method", "magic"), ("--nonsense",), ("--speech",)):
        outcome = call("separate", given.mix, *given.known, "-o", tmp_path / "out", *wrong)
        assert (outcome.code, outcome.out) == (2, "") and wrong[0] in outcome.err
    assert call("separate", given.mix, *given.known).code == 2  # no -o
    assert call("nonsense").code == 2


EMPTY = {
    "an argument": [("clean", "", "-o", "out"), ("clean", "a.wav", " ", "-o", "out"), ("detect", ""), ("separate", "")],
    "-o": [("separate", "a.wav", "-o", ""), ("detect", "a.wav", "-o", "")],
    "--output": [("demo", "--output=")],
    "--speech": [("separate", "a.wav", "--speech", "", "-o", "out")],
    "--data": [("train", "detector", "--data", "", "-o", "out"), ("reproduce", "demir2011", "--data", "")],
    "--estimate": [("evaluate", "--reference", "a.wav", "--estimate", "")],
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_is_no_path(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As a path, it would be the folder that one is in: an unset variable of the shell would take all of it."""
    monkeypatch.chdir(tmp_path)
    for line in EMPTY[name]:
        assert call.refused(*line).startswith(f"error: {name} is empty; ")


def test_a_name_may_end_in_an_equals_sign(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in (("clean", "a.wav", "--output=out="), ("evaluate", "--reference=a=", "--estimate", "b.wav")):
        assert "no such file" in call.refused(*line)


def test_cuda_fails_where_there_is_none(call: Caller, given: Files, tmp_path: Path) -> None:
    complaint = call.refused("separate", given.mix, *given.known, "-o", tmp_path / "out", "--device", "cuda")
    assert "cuda" in complaint


def test_evaluate_refuses_what_does_not_belong_together(call: Caller, given: Files, tmp_path: Path) -> None:
    longer = save(tmp_path / "longer.wav", tone(3, 300))
    faster = save(tmp_path / "faster.wav", tone(1, 300, rate=2 * RATE), rate=2 * RATE)
    for other, word in ((longer, "samples"), (faster, "Hz")):
        complaint = call.refused("evaluate", "--reference", given.speech, "--estimate", other)
        assert str(other) in complaint and str(given.speech) in complaint and word in complaint
    complaint = call.refused("evaluate", "--reference", given.speech, given.mix, "--estimate", given.speech)
    assert "2 references and 1 estimate" in complaint


def test_compare_refuses_what_it_cannot_do(call: Caller, given: Files, tmp_path: Path) -> None:
    start = ("compare", given.mix, *given.known, "-o", tmp_path / "out")
    assert "magic" in call.refused(*start, "--methods", "nmf,magic")
    assert "at least one" in call.refused(*start, "--methods", ",")
    assert "--reference-music" in call.refused(*start, "--reference-speech", given.mix)
    references = ("--reference-speech", given.speech, "--reference-music", given.mix)
    assert str(given.speech) in call.refused(*start, *references)  # too short


# --- places that cannot be written ---------------------------------------------------------------------------------------


def test_output_in_the_place_of_a_file_is_refused(call: Caller, given: Files, tmp_path: Path) -> None:
    for folder in (given.mix, given.mix / "below"):
        complaint = call.refused("separate", given.mix, *given.known, "-o", folder, *TINY)
        assert str(folder) in complaint and "cannot write" in complaint


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_output_in_a_protected_folder_is_refused(call: Caller, given: Files, tmp_path: Path) -> None:
    protected = tmp_path / "protected"
    protected.mkdir(mode=0o500)
    assert str(protected) in call.refused("separate", given.mix, *given.known, "-o", protected / "out")


def test_full_disk_leaves_what_was_there(call: Caller, given: Files, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk; libsndfile meets it as it meets a full disk."""
    start = ("separate", given.mix, *given.known, *TINY)
    old = tmp_path / "old"
    old.mkdir()
    (old / "speech.wav").write_bytes(b"from an earlier run")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        for folder in (old, tmp_path / "new" / "folder"):
            assert "cannot write" in call.refused(*start, "-o", folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_at_the_last_file(call: Caller, given: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *args: Any, **options: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", full)
    folder = tmp_path / "out"
    complaint = call.refused("separate", given.mix, *given.known, *TINY, "-o", folder)
    assert str(folder / "labels.csv") in complaint and "No space left" in complaint


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [(KeyboardInterrupt(), 130, "interrupted; nothing written"), (FloatingPointError("it became nan"), 1, "it became nan")],
)
def test_interruption_and_breakdown_write_nothing(
    call: Caller, given: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, code: int, words: str
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise failure

    monkeypatch.setattr(pipeline, "separate", fail)
    before = files(tmp_path)
    outcome = call("separate", given.mix, *given.known, "-o", tmp_path / "new" / "folder")
    assert (outcome.code, outcome.out) == (code, "") and words in outcome.complaint
    assert files(tmp_path) == before


# --- odd, but fine -------------------------------------------------------------------------------------------------------


def _separate(call: Caller, given: Files, folder: Path, *options: Any) -> tuple[dict[str, Any], np.ndarray]:
    """The account of a separation that must succeed; checks that the stems are like the mixture and add up to it."""
    document = json.loads(call.succeeded("separate", given.mix, *given.known, "-o", folder, *TINY, "--json", *options))
    mixture = load(given.mix)
    speech, music = load(folder / "speech.wav"), load(folder / "music.wav")
    assert speech.shape == music.shape == mixture.shape
    np.testing.assert_allclose(speech + music, mixture * document["output_gain"], atol=1e-6)
    return document, speech


ODD = {
    "8-bit": lambda path: save(path, tone(2, 300), subtype="PCM_U8"),
    "wrong extension": lambda path: save(path, tone(2, 300), format="FLAC"),
    "stereo": lambda path: save(path, np.stack([tone(2, 300), np.zeros(2 * RATE)])),
    "one sample": lambda path: save(path, np.array([0.5])),
    "shorter than a window": lambda path: save(path, tone(0.01, 300)),
    "96 kHz": lambda path: save(path, tone(2, 300, rate=96000), rate=96000),
    "louder than full scale": lambda path: save(path, 20 * tone(2, 300), subtype="FLOAT"),
    "wav cut off": lambda path: path.write_bytes(save(path, tone(3, 300)).read_bytes()[: 44 + 2 * 2 * RATE]),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_mixtures_are_separated(call: Caller, given: Files, tmp_path: Path, case: str) -> None:
    ODD[case](tmp_path / "odd.wav")
    document, speech = _separate(call, given._replace(mix=tmp_path / "odd.wav"), tmp_path / "out")
    assert np.isfinite(speech).all()
    assert (document["output_gain"] < 1) == (case == "louder than full scale")


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[pipeline.Known]:
    """What the command line makes of its files. Nothing is separated."""
    seen: list[pipeline.Known] = []

    def stop(mixture: np.ndarray, sample_rate: int, known: pipeline.Known, *rest: Any, **options: Any) -> None:
        seen.append(known)
        raise UserError("this is as far as it goes")

    monkeypatch.setattr(pipeline, "separate", stop)
    return seen


def test_examples_of_every_kind(call: Caller, given: Files, tmp_path: Path, handed_over: list[pipeline.Known]) -> None:
    """Other rates, several channels and 8 bits: all in one folder, with a silent file that is left out."""
    folder = tmp_path / "speech"
    folder.mkdir()
    save(folder / "fast.wav", tone(0.3, 300, rate=44100), rate=44100)
    save(folder / "slow.flac", np.stack([tone(0.4, 300, rate=6000), np.zeros(2400)]), rate=6000, format="FLAC")
    save(folder / "small.wav", tone(0.5, 300), subtype="PCM_U8")
    save(folder / "silent.wav", np.zeros(RATE))
    outcome = call("separate", given.mix, "--speech", folder, "--music", given.music, "-o", tmp_path / "out", *TINY)
    assert f"warning: {folder / 'silent.wav'} is silent" in outcome.err
    known = handed_over[0]
    assert [w.shape for w in known.speech] == [(2400,), (3200,), (4000,)]
    assert np.std(known.speech[1]) == pytest.approx(np.std(known.speech[0]) / 2, rel=0.1)
    assert known.bandwidth == 3000


def test_labels_that_outlast_the_recording(call: Caller, given: Files, tmp_path: Path, handed_over: list[pipeline.Known]) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("start,end,label\n0,0.5,speech\n0.5,1,music\n1.5,7,speech+music\n9,10,speech\n")
    outcome = call("separate", given.mix, "--labels", labels, "-o", tmp_path / "out", *TINY)
    assert f"warning: {labels} has labels up to 10.00 s, but the recording ends at 2.00 s" in outcome.err
    known = handed_over[0].labels
    assert known is not None and [s.start for s in known] == [0, 0.5, 1.5]
    # The frame that is centred on the last sample is labelled, too.
    assert known[-1].end > 2
    # As does one that is rounded to end where the recording does; what begins there is left out.
    labels.write_text("start,end,label\n0,0.5,speech\n0.5,1,music\n1,1.9995,speech+music\n1.9995,7,music\n")
    call("separate", given.mix, "--labels", labels, "-o", tmp_path / "out", *TINY)
    known = handed_over[1].labels
    assert known is not None and [s.label for s in known] == ["speech", "music", "speech+music"] and known[-1].end > 2


@pytest.mark.parametrize(("errors", "more"), [("strict", ()), ("strict", ("--json",)), ("surrogateescape", ())])
def test_a_terminal_without_a_character_has_a_question_mark(
    given: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: str, more: tuple[str, ...]
) -> None:
    """As where Windows sends output to a file, or the locale is POSIX; it was a traceback."""
    name = tmp_path / "¼.wav"
    name.write_bytes(given.mix.read_bytes())
    said = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said, encoding="ascii", errors=errors))
    with pytest.raises(SystemExit) as exit:
        cli.main(["detect", str(tmp_path), *more])
    assert not exit.value.code
    assert b"?.wav" in said.getvalue()
