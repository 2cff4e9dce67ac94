"""What the command line promises when all goes well."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer
from hypothesis import given as for_all
from hypothesis import strategies as st
from jax import Array
from rich.table import Table

from bayessep import cli, commands, devices, doctor, estimates, output, recordings, separator_commands, shipped, terminal
from bayessep.errors import UserError
from bayessep.settings import METHODS, Settings
from bayessep.terminal import spread, to_json
from tests.commandline import TINY, Caller, Files, files, load, save, tone

VERBS = ("separate", "clean", "compare", "evaluate", "demo", "doctor")


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESSEP_CACHE", "off")
    monkeypatch.setenv("COLUMNS", "120")


# --- arguments -----------------------------------------------------------------------------------------------------------

SEVERAL, ONE = frozenset({"--speech", "--music"}), frozenset({"-o", "--seed"})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("MIX --speech a b --music c -o D", "MIX --speech a --speech b --music c -o D"),
        ("MIX --speech a --speech b c", "MIX --speech a --speech b --speech c"),
        ("MIX --speech=a b --json", "MIX --speech=a --speech b --json"),
        ("--speech a b -- MIX", "--speech a --speech b -- MIX"),
        ("--speech a --music b MIX", "--speech a --music b MIX"),
        ("--speech a --music b MIX -o D --json", "--speech a --music b MIX -o D --json"),
        ("--speech a b --music c -o D", "--speech a --speech b --music c -o D"),  # MIX was forgotten, and stays so
        ("-o --speech MIX --seed 1", "-o --speech MIX --seed 1"),  # what follows -o is its value
        ("MIX --speech --music b", "MIX --speech --music b"),  # for the parser to complain of
        ("MIX --speech", "MIX --speech"),
        ("MIX --speech - a", "MIX --speech - --speech a"),
        ("", ""),
    ],
)
def test_spread(line: str, expected: str) -> None:
    assert spread(line.split(), SEVERAL, ONE) == expected.split()


def test_spread_without_positional() -> None:
    assert spread("--speech a b".split(), SEVERAL, ONE, positional=False) == "--speech a --speech b".split()


@for_all(st.lists(st.sampled_from(["--speech", "--music", "-o", "--json", "a", "b", "c", "--", "--speech=d"]), max_size=8))
def test_spread_is_done_once(line: list[str]) -> None:
    """What is spread already means the same when it is spread again, as long as there is a positional argument."""
    once = spread(["MIX", *line], SEVERAL, ONE)
    assert spread(once, SEVERAL, ONE) == once


def test_repeated_and_listed_files_are_the_same(call: Caller, given: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def gather(mixture: Path, speech: list[Path], music: list[Path], *rest: Any, **options: Any) -> None:
        seen.append((mixture, speech, music))
        raise UserError("enough")

    monkeypatch.setattr(recordings, "gather", gather)
    a, b = given.speech, given.mix
    for line in ((b, "--speech", a, b, "--music", a), (b, "--speech", a, "--music", a, "--speech", b)):
        assert call("separate", *line, "-o", "x").complaint == "error: enough"
    assert seen[0] == seen[1] == (b, [a, b], [a])


# --- help ----------------------------------------------------------------------------------------------------------------


def _options(verb: str) -> dict[str, Any]:
    """The parameters of a verb by their names."""
    command = typer.main.get_command(cli.app).commands[verb]  # pyright: ignore[reportAttributeAccessIssue]
    return {parameter.name: parameter for parameter in command.params}


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_every_option(call: Caller, verb: str) -> None:
    text = call.succeeded(verb, "--help")
    options = [o for p in _options(verb).values() for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
    assert {"--json", "--quiet"} <= set(options)
    assert [o for o in options if o not in text] == []
    assert [name for name, p in _options(verb).items() if not p.help] == []
    assert f"bayessep {verb}" in text.split("Example")[1]


def test_help_lists_the_verbs(call: Caller) -> None:
    text = call.succeeded("--help")
    assert all(re.search(rf"\b{verb}\b", text) for verb in VERBS)


@pytest.mark.parametrize("verb", ["separate", "compare"])
def test_options_are_the_settings_of_the_library(verb: str) -> None:
    assert tuple(cli.Method) == tuple(METHODS)
    assert tuple(cli.AnyMethod) == (*METHODS, "conv-nmf", *separator_commands.METHODS)
    assert tuple(cli.ORACLES) == tuple(estimates.ORACLES)
    assert set(estimates.SUMMARIES) == {*cli.AnyMethod, *cli.ORACLES} - {*METHODS}
    defaults = dataclasses.asdict(Settings()) | {"chain": "chain" if Settings().chain else "independent"}
    defaults |= {"complete": "complete" if Settings().complete else "as-given"}
    defaults |= {"align": "align" if Settings().align else "level-as-given", "weigh": "weigh" if Settings().weigh else "median"}
    defaults |= {"log_modes": "log-modes" if Settings().log_modes else "modes"}
    said = {name: p.show_default for name, p in _options(verb).items() if isinstance(p.show_default, str)}
    said = {name: text for name, text in said.items() if name in defaults}
    assert said.keys() == defaults.keys() - {"method", "seed"}
    assert said == {name: str(defaults[name]) for name in said}
    unsaid = [n for n, p in _options(verb).items() if n in defaults and n not in said and p.default != defaults[n]]
    assert unsaid == []


def test_help_is_there_at_once() -> None:
    """Nothing heavy is imported before a verb runs."""
    code = "import sys, bayessep.cli; print([m for m in ('jax', 'numpy', 'scipy', 'matplotlib', 'soundfile') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_verbs_import_nothing_slow_that_they_may_not_need() -> None:
    """Half a second each, and an error in the arguments should not wait for them."""
    code = """
import sys
from bayessep import cleaning_files, commands, listening_commands, separator_commands, transcript_commands
print([m for m in ('scipy.signal', 'scipy.stats', 'matplotlib', 'numpyro', 'librosa') if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- separate ------------------------------------------------------------------------------------------------------------


def test_separate_writes_what_it_says(call: Caller, given: Files, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    outcome = call("separate", given.mix, *given.known, "-o", folder, *TINY, "--seed", 7, "--json")
    assert outcome.code == 0 and outcome.err == ""
    document = json.loads(outcome.out)
    assert document == json.loads((folder / "separation.json").read_text())
    assert {p.name for p in folder.iterdir()} == {"speech.wav", "music.wav", "labels.csv", "separation.json"}

    assert (document["method"], document["seed"], document["device"]) == ("variational", 7, "cpu")
    assert document["settings"] == dataclasses.asdict(Settings()) | {
        "bases": 4, "sweeps": 3, "training_sweeps": 3, "complete": False, "chain": False, "seed": 7,
    }  # fmt: skip
    assert len(document["trace"]) == document["sweeps"] == 3 and document["trace"][-1] == document["bound"]
    assert document["converged"] is False
    assert document["real_time_factor"] == pytest.approx(document["seconds"] / 2)
    frames = document["frames"]
    assert len(frames["times"]) == len(frames["p_music"]) == len(document["gain"])
    np.testing.assert_allclose(np.diff(frames["times"]), frames["hop_seconds"], atol=1e-6)
    assert all(0 <= p <= 1 for p in frames["p_music"])
    assert len(document["filter"]) == len(document["frequencies"])
    assert document["segments"][0]["start"] == 0 and document["segments"][-1]["end"] == pytest.approx(2)
    assert document["input"]["path"] == str(given.mix) and document["input"]["frames"] == 16000

    mixture, speech, music = (load(p) for p in (given.mix, folder / "speech.wav", folder / "music.wav"))
    np.testing.assert_allclose(speech + music, mixture, atol=1e-6)


def test_same_seed_same_bytes(call: Caller, given: Files, tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        call.succeeded("separate", given.mix, *given.known, "-o", tmp_path / folder, *TINY, "--seed", seed)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / f).glob("*.wav")} for f in "abc")
    assert a == b != c


def test_draws_are_written_beside_the_stems(call: Caller, given: Files, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    call.succeeded("separate", given.mix, *given.known, "-o", folder, *TINY, "--draws", 2)
    first, second = (load(folder / "draws" / f"speech-{n}.wav") for n in (1, 2))
    assert first.shape == load(given.mix).shape and np.abs(first - second).max() > 1e-3
    results = {folder / name for name in ("speech.wav", "music.wav", "labels.csv", "separation.json")}
    call.succeeded("separate", given.mix, *given.known, "-o", folder, *TINY, "--draws", 1)
    np.testing.assert_array_equal(load(folder / "draws" / "speech-1.wav"), first)  # the second adds to the first
    assert files(folder).keys() == results | {folder / "draws", folder / "draws" / "speech-1.wav"}
    call.succeeded("separate", given.mix, *given.known, "-o", folder, *TINY)
    assert files(folder).keys() == results, "draws of an earlier posterior do not stay beside the stems of another"


@pytest.mark.loose_arrays  # optax
def test_what_has_no_effect_or_is_left_out_is_said(call: Caller, given: Files, tmp_path: Path) -> None:
    line = ("separate", given.mix, *given.known, "-o", tmp_path / "out", *(o for o in TINY if o != "--as-given"))
    assert "warning: --complete has no effect without --chain" in call(*line, "--complete").err
    assert "warning: --rule printed has no effect with svi" in call(*line, "--rule", "printed", "--method", "svi").err
    music = ("separate", given.mix, *given.known[2:], "-o", tmp_path / "out", *TINY, "--method", "unsupervised")
    assert "warning: --complete has no effect with unsupervised" in call(*music, "--chain", "--complete").err
    assert call(*line).err == call(*music, "--chain").err == ""
    cut = call(*line, "--max-catalogue", 5)
    assert "0.5 s of music are known, but only the first 0.1 s are used" in cut.err and cut.code == 0
    free = json.loads(call.succeeded(*line, "--filter-shape", 0, "--json"))
    assert free["settings"]["filter_shape"] is None and free["settings"]["gain_shape"] == 30


def test_labels_alone_are_enough(call: Caller, tmp_path: Path) -> None:
    """The paper's setting: the labelled stretches of the recording itself train the model."""
    speech, music = tone(4, 300, seed=1), tone(4, 900)
    t = np.arange(4 * 8000) / 8000
    mix = save(tmp_path / "mix.wav", speech * (t < 1) + music * ((1 <= t) & (t < 2)) + (speech + music) * (t >= 2))
    labels = tmp_path / "labels.csv"
    labels.write_text("start,end,label\n0,1,speech\n1,2,music\n2,3,mixed\n3.5,4,noise\n")
    out = call.succeeded("separate", mix, "--labels", labels, "-o", tmp_path / "out", *TINY, "--json")
    document = json.loads(out)
    gain = np.array([np.nan if g is None else g for g in document["gain"]])
    times = np.array(document["frames"]["times"])
    assert np.isnan(gain[times < 1.9]).all() and np.isfinite(gain[(2.1 < times) & (times < 3.4)]).all()
    names = [s["label"] for s in document["segments"]]
    assert names[:3] == ["speech", "music", "speech+music"] and names[-1] == "noise"
    assert [s["end"] for s in document["segments"]][:2] == [1, 2] and document["segments"][-1]["start"] == 3.5
    read = [line.split(",") for line in (tmp_path / "out" / "labels.csv").read_text().splitlines()[1:]]
    assert [row[2] for row in read] == names
    stems = [load(tmp_path / "out" / f"{stem}.wav")[0] for stem in ("speech", "music")]
    alone = slice(2000, 6000)
    np.testing.assert_allclose(stems[0][alone], load(mix)[0][alone], atol=1e-3)
    np.testing.assert_allclose(stems[1][8000:][alone], load(mix)[0][8000:][alone], atol=1e-3)


def test_long_recordings_are_worked_on_in_pieces(
    call: Caller, given: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bayessep import streaming

    def pretend(path: Path, known: Any, settings: Settings, speech: Path, music: Path, **options: Any) -> Any:
        for stem in (speech, music):
            save(stem, load(path)[0] / 2)
        times, segments = np.arange(4.0), [recordings.Segment(0.0, 2.0, "speech+music")]
        return streaming.LongSeparation(segments, times, times, {}, times, 1.0, settings, streaming.limits(settings))

    monkeypatch.setattr(streaming, "separate_file", pretend)
    monkeypatch.setattr(recordings, "LONG_SECONDS", 1.0)
    document = json.loads(call.succeeded("separate", given.mix, *given.known, "-o", tmp_path / "out", *TINY, "--json"))
    assert document["bound"] is None and document["real_time_factor"] == 0.5
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"speech.wav", "music.wav", "labels.csv", "separation.json"}
    line = ("separate", given.mix, *given.known, "-o", tmp_path / "other")
    assert "too long" in call.refused(*line, "-q", "--draws", 1)
    assert "warning: in blocks, only the music that was given is known: its other" in call(*line, "-q", "--chain").err
    assert "warning: in blocks, svi runs as variational" in call(*line, "-q", "--method", "svi").err


def test_results_for_people_name_the_files(call: Caller, given: Files, tmp_path: Path) -> None:
    outcome = call("separate", given.mix, *given.known, "-o", tmp_path / "out", *(o for o in TINY if o != "-q"))
    assert str(tmp_path / "out" / "speech.wav") in outcome.out
    assert "device: cpu" in outcome.err and "training: 3/3" in outcome.err


# --- compare, evaluate, doctor -------------------------------------------------------------------------------------------


def test_compare(call: Caller, given: Files, tmp_path: Path) -> None:
    true = [save(tmp_path / f"true {pitch}.wav", tone(2, pitch, seed=1)) for pitch in (300, 500)]
    references = ("--reference-speech", true[0], "--reference-music", true[1])
    line = ("compare", given.mix, *given.known, *references, "--methods", "variational, nmf", "-o", tmp_path / "out")
    (tmp_path / "out" / "icm").mkdir(parents=True)
    of_separate = save(tmp_path / "out" / "icm" / "speech.wav", tone(1, 300))
    document = json.loads(call.succeeded(*line, *TINY, "--json"))
    assert [row["method"] for row in document["rows"]] == ["mixture", "variational", "nmf"]
    for row in document["rows"]:
        assert set(row) == {"method", "speech", "music", "bound", "sweeps", "seconds"}
        assert set(row["speech"]) == set(row["music"]) == {"sdr", "sir", "sar", "si_sdr"}
    assert document["rows"][1]["sweeps"] == 3 and document["rows"][0]["bound"] is None
    folder = tmp_path / "out"
    one = [f"nmf/{name}" for name in ("speech.wav", "music.wav", "separation.json", "labels.csv")]
    for name in ("report.html", "compare.png", "compare.json", *one):
        assert (folder / name).stat().st_size > 0
    assert of_separate.exists()  # what no comparison wrote
    mixture = load(given.mix) * document.get("gain", 1.0)
    np.testing.assert_allclose(load(folder / "nmf/speech.wav") + load(folder / "nmf/music.wav"), mixture, atol=1e-6)
    assert not list(folder.rglob(".*"))


def test_compare_does_what_can_be_done(call: Caller, given: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(commands, "compare", lambda _, methods, *__: ran.append(list(methods)))
    everything = [*METHODS, "conv-nmf", *(name for name in separator_commands.METHODS if name in shipped.names())]
    learned = {*METHODS, "conv-nmf"}
    for known, left in ((given.known, set()), (("--music", given.music), learned - {"unsupervised"}), ((), learned)):
        outcome = call("compare", given.mix, *known, "-o", tmp_path / "out")
        assert outcome.code == 0 and ran.pop() == [name for name in everything if name not in left]
        assert ("left out for lack of examples to learn from" in outcome.err) == bool(left)
    named = ("compare", given.mix, "-o", tmp_path / "out", "--methods")
    assert "needs examples of the speech" in call.refused(*named, "nmf")
    assert "--sweeps does not apply to any of conv-tasnet" in call.refused(*named, "conv-tasnet", "--sweeps", 5)
    assert call(*named, "conv-nmf", "--sweeps", 5, *given.known).code == 0 and ran == [["conv-nmf"]]
    assert "--tolerance does not apply to" in call.refused(*named, "conv-nmf", "--tolerance", 0.1, *given.known)
    assert "--mask-power does not apply to" in call.refused(*named, "conv-tasnet", "--mask-power", 2)
    assert "--seed does not apply to" in call.refused(*named, "conv-tasnet", "--seed", 2)


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="pipes have no names here")
def test_labels_may_come_through_a_pipe(call: Caller, given: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[Any] = []
    monkeypatch.setattr(commands, "compare", lambda material, *_: known.append(material.labels))
    reader, writer = os.pipe()
    os.write(writer, b"start,end,label\n0,1,speech\n1,1.5,music\n")
    os.close(writer)
    outcome = call("compare", given.mix, "--labels", f"/dev/fd/{reader}", "-o", tmp_path / "out")
    os.close(reader)
    assert outcome.code == 0 and [s.label for s in known[0]] == ["speech", "music"], outcome.err


def test_no_faint_music_is_no_number() -> None:
    assert cli._settings({"faint": 0.0}, ["nmf"], terminal.Terminal()).faint is None


def test_what_is_installed_is_what_is_asked_for() -> None:
    """The list of doctor beside pyproject.toml, of which it knows nothing when it is installed."""
    asked = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

    def names(of: list[str]) -> set[str]:
        return {re.split(r"[<>=\[ ;]", one)[0] for one in of}

    assert names(asked["dependencies"]) <= set(doctor._NEEDED)
    extras = {extra: names(of) for extra, of in asked["optional-dependencies"].items() if extra not in ("dev", "bench")}
    assert {extra: set(of) for extra, of in doctor._EXTRAS.items()} == extras


def test_evaluate(call: Caller, given: Files, tmp_path: Path) -> None:
    speech, music = tone(1, 300, seed=5), tone(1, 500, seed=6)
    paths = [save(tmp_path / f"{n}.wav", w) for n, w in {"s": speech, "m": music, "e": speech + 0.1 * music}.items()]
    stereo = save(tmp_path / "stereo.wav", np.stack([music, music]))
    line = ("evaluate", "--reference", paths[0], paths[1], "--estimate", paths[2], stereo)
    outcome = call(*line, "--json")
    assert "stereo.wav" in outcome.err and "mixed down" in outcome.err
    first, second = json.loads(outcome.out)["sources"]
    assert (first["reference"], first["estimate"]) == (str(paths[0]), str(paths[2]))
    assert first["si_sdr"] == pytest.approx(20, abs=1) and first["sir"] == pytest.approx(20, abs=2)
    assert first["sar"] > 40 and second["sdr"] > 40
    assert "SI-SDR" in call.succeeded(*line, "--quiet")
    alone = json.loads(call.succeeded("evaluate", "--reference", paths[0], "--estimate", paths[2], "--json"))
    assert alone["sources"][0]["sir"] is None
    assert "∞" not in call.succeeded("evaluate", "--reference", paths[0], "--estimate", paths[2], "-q")


def test_labels_are_evaluated(call: Caller, tmp_path: Path) -> None:
    (tmp_path / "true.rttm").write_text(
        "SPEAKER a 1 0.0 4.0 <NA> <NA> speech <NA> <NA>\nSPEAKER a 1 3.0 3.0 <NA> <NA> music <NA> <NA>\n"
    )
    (tmp_path / "found.csv").write_text("start,end,label\n0,2,speech\n2,4,speech+music\n4,8,music\n8,10,thunder\n")
    line = ("evaluate", "--reference", tmp_path / "true.rttm", "--estimate", tmp_path / "found.csv")
    outcome = call(*line, "--json")
    assert "neither speech nor music: thunder" in outcome.err
    document = json.loads(outcome.out)
    # True: speech to 3 s, both to 4 s, music to 6 s, then nothing to 10 s.
    expected = {"speech": (1, 2 / 3), "music": (2 / 4, 1), "speech+music": (1 / 2, 1)}
    expected |= {"speech at all": (1, 1), "music at all": (3 / 6, 1)}
    for name, (precision, recall) in expected.items():
        row = document["frames"][name]
        assert (row["precision"], row["recall"]) == (pytest.approx(precision), pytest.approx(recall)), name
    assert document["average_f1"] == pytest.approx((0.8 + 2 / 3 + 2 / 3) / 3) and document["seconds"] == 10
    assert document["segments"] is None or document["segments"]["music"]["error"] == pytest.approx(1.0)
    known = json.loads(call.succeeded(*line, "--skip-gaps", "--json"))
    assert known["seconds"] == 6 and known["frames"]["music"]["precision"] == 1
    assert "as far as they are true: 71.1" in call.succeeded(*line, "-q")
    (tmp_path / "nothing.csv").write_text("start,end,label\n")
    assert "no time is labelled" in call.refused(*line[:2], tmp_path / "nothing.csv", *line[3:], "--skip-gaps")
    assert "no time is labelled" in call.refused(*line[:2], *[tmp_path / "nothing.csv"], "--estimate", tmp_path / "nothing.csv")
    alone = json.loads(call.succeeded("evaluate", "--reference", line[4], "--estimate", line[4], "--json"))
    (tmp_path / "talk.csv").write_text("start,end,label\n0,2,speech\n2,4,music\n")
    (tmp_path / "more.csv").write_text("start,end,label\n0,2,speech\n2,3.9,music\n3.9,4,speech+music\n")
    pair = ("--reference", tmp_path / "talk.csv", "--estimate", tmp_path / "more.csv")
    most = json.loads(call.succeeded("evaluate", *pair, "--json"))
    assert alone["average_f1"] == 1 and 0.98 < most["average_f1"] < 1, "a class that is never true is left out"
    twice = json.loads(call.succeeded(*line[:3], line[2], "--estimate", line[4], line[4], "--json"))
    assert (twice["files"], twice["seconds"]) == (2, 20) and twice["frames"] == document["frames"]


def test_sound_is_not_evaluated_against_labels(call: Caller, given: Files, tmp_path: Path) -> None:
    sound, labels = save(tmp_path / "s.wav", tone(1, 300)), tmp_path / "l.csv"
    labels.write_text("start,end,label\n0,2,speech\n")
    for line, said in (
        (("--reference", sound, "--estimate", labels), "sound with sound or labels (.csv, "),
        (("--reference", labels, labels, "--estimate", labels), "2 references and 1 estimates"),
        (("--reference", sound, "--estimate", sound, "--skip-gaps"), "--skip-gaps applies to labels only"),
    ):
        outcome = call("evaluate", *line)
        assert outcome.code == 2 and said in outcome.err


def test_doctor(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    from bayessep import doctor

    outcome = call("doctor", "--json")
    document = json.loads(outcome.out)
    assert outcome.code == 0 and document["ok"] and {c["name"] for c in document["checks"]} == {"installation", "STFT", "inference"}
    assert document["packages"]["jax"] and document["devices"] and document["cores"] >= 1

    def broken(*args: Any) -> tuple[bool, str]:
        raise RuntimeError("out of order")

    monkeypatch.setattr(doctor, "_CHECKS", (("inference", broken),))
    outcome = call("doctor")
    assert outcome.code == 1 and "FAILED" in outcome.out and "out of order" in outcome.out


def test_version(call: Caller) -> None:
    assert re.fullmatch(r"bayessep \d+\.\d+\.\d+\S*\n", call.succeeded("--version"))


# --- output --------------------------------------------------------------------------------------------------------------


def test_json_is_strict_and_compact() -> None:
    document = {"a": np.array([1.0, np.nan]), "b": float("inf"), "c": [{"d": (1, "x [\n2]")}], "e": np.float32(0.5), "f": None}
    text = to_json(document)
    assert json.loads(text) == {"a": [1.0, None], "b": None, "c": [{"d": [1, "x [\n2]"]}], "e": 0.5, "f": None}
    assert '"a": [1.0, null]' in text


def test_draft_appears_whole(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "replaced").write_text("old")
    with output.draft(tmp_path) as part:
        (part / "replaced").write_text("new")
        (part / "below").mkdir()
        (part / "below" / "deep").write_text("deep")
        assert (tmp_path / "replaced").read_text() == "old"
    assert {p.relative_to(tmp_path).as_posix(): v for p, v in files(tmp_path).items()} == {
        "kept": b"kept", "replaced": b"new", "below": None, "below/deep": b"deep",
    }  # fmt: skip
    (tmp_path / "folder").mkdir()
    with output.draft(tmp_path, replacing=["below/deep", "replaced", "folder", "never was"]) as part:
        (part / "replaced").write_text("newer")
    assert set(files(tmp_path)) == {tmp_path / name for name in ("kept", "replaced", "folder")}
    assert (tmp_path / "replaced").read_text() == "newer"


def test_inputs_are_not_replaced(call: Caller, given: Files, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    call.succeeded("separate", given.mix, *given.known, "-o", folder, *TINY, "--draws", 1)
    before = files(folder)
    for mine in ("speech.wav", "draws/speech-1.wav"):
        assert f"{mine} would be replaced" in call.refused("separate", folder / mine, *given.known, "-o", folder, *TINY)
    known = ("--speech", folder / "draws" / "speech-1.wav", *given.known[2:])
    assert "would be replaced" in call.refused("separate", given.mix, *known, "-o", folder, *TINY)
    assert "would be replaced" in call.refused("separate", given.mix, *known, "-o", folder / ".." / "out", *TINY)
    assert files(folder) == before


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), UserError("no"), OSError(28, "No space left on device")])
def test_failed_draft_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    folder = tmp_path / "a" / "b"
    with pytest.raises(UserError if isinstance(failure, OSError) else type(failure)), output.draft(folder) as part:
        (part / "file").write_text("x")
        raise failure
    assert files(tmp_path) == {}


@pytest.mark.parametrize("after", range(3))
def test_draft_that_is_interrupted_as_it_begins_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """As soon as the first, the second or the last of its folders is there."""
    whole, made = Path.mkdir, []

    def interrupted(self: Path, **options: Any) -> None:
        whole(self, **options)
        made.append(self)
        if len(made) > after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), output.draft(tmp_path / "a" / "b"):
        pass
    assert len(made) == after + 1 and not list(tmp_path.iterdir())


def test_draft_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "speech.wav").mkdir()
    with pytest.raises(UserError, match="it is a folder"), output.draft(tmp_path) as part:
        (part / "aaa").write_text("x")
        (part / "speech.wav").write_text("x")
    assert list(files(tmp_path)) == [tmp_path / "speech.wav"]


# --- the process ---------------------------------------------------------------------------------------------------------


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert devices.cache_folder() is None
    monkeypatch.delenv("BAYESSEP_CACHE")
    assert devices.cache_folder() == tmp_path / "bayessep" / "jax"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert devices.cache_folder() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert devices.cache_folder() == tmp_path / "home" / ".cache" / "bayessep" / "jax"


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="this system does not say how memory is mapped")
def test_programs_are_forgotten_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[int] = []

    @jax.jit
    def doubled(x: Array) -> Array:
        traced.append(len(x))
        return 2 * jnp.sort(x)

    for n in (10, 11, 10, 11):
        doubled(jnp.ones(n))
    devices.forget_programs()
    doubled(jnp.ones(10))
    assert traced == [10, 11], "these are few"
    monkeypatch.setattr(devices, "MOST_MAPPINGS", 0)
    before = len(Path("/proc/self/maps").read_bytes().splitlines())
    devices.forget_programs()
    assert len(Path("/proc/self/maps").read_bytes().splitlines()) < before
    np.testing.assert_array_equal(doubled(jnp.ones(10)), 2.0)
    assert traced == [10, 11, 10]


def test_tables_are_whole_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal, there is no width that they must fit."""
    table = Table(*(f"column {n}" for n in range(20)))
    table.add_row(*(f"{n}.{n:012}" for n in range(20)))
    terminal.Terminal().result({}, table)
    said = capsys.readouterr().out
    assert all(f"column {n} " in said and f"{n}.{n:012} " in said for n in range(20))


def test_an_interruption_that_was_swallowed_is_served_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops what is raised in a destructor or a callback; the next sign of progress raises it again."""
    monkeypatch.setattr(terminal, "_interrupted", threading.Event())
    working = terminal.Working(terminal.Terminal(quiet=True), None)
    with terminal._interruptible():
        working("a", 1, 2, 0.0)
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            working("a", 2, 2, 0.0)


def test_an_interruption_that_became_another_error_is_one(monkeypatch: pytest.MonkeyPatch, call: Caller) -> None:
    """numpy, for one, makes a ValueError of what is raised while it asks an array for its numbers."""

    def examine(*_: Any) -> Any:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise ValueError("setting an array element with a sequence.")

    monkeypatch.setattr(doctor, "examine", examine)
    outcome = call("doctor")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (130, "interrupted; nothing written")

    failed: list[str] = []
    with pytest.raises(ValueError, match="sequence"), terminal.spared("a.wav", failed.append, alone=False):
        raise ValueError("a sequence")
    monkeypatch.setattr(terminal, "_interrupted", threading.Event())
    with terminal.spared("a.wav", failed.append, alone=False):
        raise ValueError("a sequence")
    assert len(failed) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_process_leaves_nothing(given: Files, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "out"
    line = ["separate", given.mix, *given.known, "-o", folder, "--sweeps", 10_000_000, "--tolerance", 1e-30]
    process = subprocess.Popen(
        [sys.executable, "-m", "bayessep", *map(str, line)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"BAYESSEP_CACHE": "off"}, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    try:
        started = time.monotonic()
        while not folder.exists() and time.monotonic() - started < 100:
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (128 + number, "")
    assert err.splitlines()[-1] == "interrupted; nothing written"
    assert not folder.exists()
