"""The verbs of networks: detect, train detector, models. The networks here have learned nothing, or next to nothing."""

import csv
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import typer

from bayessep import cli, detection, network_commands, segments, shipped, train
from bayessep.broadcast import generate_broadcast
from bayessep.data import MANIFEST_COLUMNS
from bayessep.detector_data import Item, Items
from bayessep.detector_training import Recipe, read_recipe, task
from bayessep.models import speech_music_detector as detector
from tests.commandline import Caller, files, save, tone

RECIPE = Recipe(
    network="frames", neither=True, standardised=False, head="single", feature="LMS", bands=20, augment=False,
    crops=1, crop_seconds=2.0, each=3, epochs=2, steps_per_epoch=3, patience=9,
)  # fmt: skip
CARD = "# A detector\n\nIt has learned nothing.\n\n## Licence\n\nApache-2.0, as the rest.\n"
README = Path(__file__).parents[1] / "README.md"
ENDINGS = {"csv": "csv", "tsv": "tsv", "rttm": "rttm", "textgrid": "TextGrid", "audacity": "txt", "json": "json"}


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESSEP_CACHE", "off")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def models(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which a detector ships whose random numbers are made so sure of themselves that labels change."""
    folder = tmp_path_factory.mktemp("models")
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setattr(detection, "WINDOW", 300)  # of which recordings of 12 s fill one
    weights = detection.weights_of(RECIPE, [detector.init(RECIPE.detector, jax.random.key(2))], detection.Calibration(0.05))
    shipped.publish("detector", weights, CARD, folder)
    for cached in (shipped.read, detection.shipped_network):
        cached.cache_clear()
    yield folder
    for cached in (shipped.read, detection.shipped_network):
        cached.cache_clear()


@pytest.fixture
def radio(tmp_path: Path) -> Path:
    made = generate_broadcast(0, seconds=12.0, training_seconds=2.0, layout="programme")
    return save(tmp_path / "some radio.wav", made.mixture, rate=made.sample_rate)


def timeline(path: Path) -> list[tuple[float, float, str]]:
    return [(round(s.start, 5), round(s.end, 5), s.label) for s in segments.read(path)]


# --- detect --------------------------------------------------------------------------------------------------------------


def test_every_format_says_the_same(call: Caller, models: Path, radio: Path, tmp_path: Path) -> None:
    document = json.loads(call.succeeded("detect", radio, "--json"))
    truth = [(round(s["start"], 5), round(s["end"], 5), s["label"]) for s in document["segments"]]
    assert len({label for *_, label in truth}) >= 3 and "speech+music" in {label for *_, label in truth}
    for name, ending in ENDINGS.items():
        by_ending, streamed = tmp_path / f"labels.{ending}", tmp_path / f"streamed {name}"
        assert call.succeeded("detect", radio, "-o", by_ending) == f"{by_ending}\n"
        streamed.write_text(call.succeeded("detect", radio, "--format", name), encoding="utf-8")
        assert streamed.read_bytes() == by_ending.read_bytes()
        assert timeline(by_ending) == truth, name
    by_option = tmp_path / "labels.anything"
    call.succeeded("detect", radio, "-o", by_option, "--format", "rttm")
    assert by_option.read_bytes() == (tmp_path / "labels.rttm").read_bytes()
    assert " some_radio 1 " in by_option.read_text()


def test_document(call: Caller, models: Path, radio: Path, tmp_path: Path) -> None:
    outcome = call("detect", radio, "--json", "-q", "-o", tmp_path / "labels.csv")
    assert outcome.err == "" and timeline(tmp_path / "labels.csv")[-1][1] == 12
    document = json.loads(outcome.out)
    assert set(document) == {"segments", "frames"} and set(document["frames"]) == {"hop", "speech", "music"}
    assert all(set(s) == {"start", "end", "label", "probability"} for s in document["segments"])
    ends = [(s["start"], s["end"]) for s in document["segments"]]
    assert ends[0][0] == 0 and ends[-1][1] == 12 and all(a[1] == b[0] for a, b in zip(ends, ends[1:], strict=False))
    frames = document["frames"]
    assert frames["hop"] == 0.04 and len(frames["speech"]) == len(frames["music"]) == 300
    numbers = [*frames["speech"], *frames["music"], *(s["probability"] for s in document["segments"])]
    assert all(0 <= p <= 1 and round(p, 4) == p for p in numbers) and len(set(numbers)) > 100
    heard = detection.detect(radio)
    np.testing.assert_allclose(frames["speech"], heard.speech, atol=6e-5)


def test_several_recordings(call: Caller, models: Path, radio: Path, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    (folder / "below").mkdir(parents=True)
    save(folder / "below" / "b.flac", tone(2, 300), format="FLAC")
    (folder / "notes 1.txt").write_text("no recording")
    (folder / "bad.wav").write_text("no recording either")
    out = tmp_path / "out"
    outcome = call("detect", radio, folder, "-o", out, "--format", "tsv", "-q")
    assert outcome.code == 1 and outcome.err.splitlines()[-1].startswith("warning: failed: ")
    assert str(folder / "bad.wav") in outcome.err and len(outcome.err.splitlines()) == 1
    made = {path for path in out.rglob("*") if path.is_file()}
    assert made == {out / "some radio.tsv", out / "below" / "b.tsv"}
    assert outcome.out.splitlines() == [str(out / "some radio.tsv"), str(out / "below" / "b.tsv")]

    streamed = call("detect", radio, folder, "-q")
    parts = streamed.out.split("# ")[1:]
    assert streamed.code == 1 and len(parts) == 2
    for name in ("csv", "textgrid"):
        part = tmp_path / f"part.{name}"
        part.write_text(call.succeeded("detect", folder / "below", "--format", name))
        assert part.read_text().startswith(f"# {folder / 'below' / 'b.flac'}\n")
        assert timeline(part)[-1][1] == 2
    listed = json.loads(call("detect", radio, folder, "--json").out)
    assert [set(d) for d in listed] == [{"path", "segments", "frames"}, {"path", "error"}, {"path", "segments", "frames"}]
    recordings = {line.split()[1] for line in call("detect", radio, folder, "--format", "rttm").out.splitlines()}
    assert recordings == {"some_radio", "b"}


def test_all_failed_leaves_nothing(call: Caller, models: Path, tmp_path: Path) -> None:
    bad = [tmp_path / f"{n}.wav" for n in range(2)]
    for path in bad:
        path.write_text("no recording")
    before = files(tmp_path)
    outcome = call("detect", *bad, "-o", tmp_path / "new" / "folder")
    assert outcome.code == 1 and outcome.out == "" and outcome.err.count("failed: ") == 2
    assert files(tmp_path) == before


def test_detect_refuses(call: Caller, models: Path, radio: Path, tmp_path: Path) -> None:
    silent = save(tmp_path / "silent.wav", np.zeros(8000))
    assert "silent" in call.refused("detect", silent, "-q", "-o", tmp_path / "new" / "x.csv")
    assert "no such file" in call.refused("detect", tmp_path / "none.wav", "-o", tmp_path / "new" / "x.csv")
    assert "'doc'" in call.refused("detect", radio, "-o", tmp_path / "x.doc")
    assert "--format rttm" in call.refused("detect", radio, "--json", "--format", "rttm")
    assert "replaced" in call.refused("detect", radio, "-o", radio, "--format", "csv")
    assert "is a folder" in call.refused("detect", radio, "-o", tmp_path, "--format", "csv")
    assert "is a folder" in call.refused("detect", radio, "-o", tmp_path)
    assert "cannot read" in call.refused("detect", radio, "--weights", tmp_path / "nope")
    other = tmp_path / "other"
    other.mkdir()
    twin = save(other / radio.name, tone(1, 300))
    assert str(twin) in call.refused("detect", radio, twin, "-o", tmp_path / "out")
    assert str(twin) in call.refused("detect", radio, twin, "--format", "rttm")
    another = tmp_path / "more"
    another.mkdir()
    save(another / "another.flac", tone(1, 300), format="FLAC")
    assert "cannot write" in call.refused("detect", radio, another, "-o", radio / "below")
    assert call("detect", radio, "-o", "").code == call("detect").code == call("detect", radio, "--format", "doc").code == 2
    assert str(silent) in call.refused("detect", radio, "--weights", silent)
    assert "replaced" in call.refused("detect", radio, "--weights", silent, "-o", silent, "--format", "csv")
    assert "must be a folder for several" in call.refused("detect", radio, silent, "-o", tmp_path / "x.TextGrid")
    patches = tmp_path / "patches.safetensors"
    recipe = Recipe(network="b2", head="single", feature="LMS", bands=20)
    shipped.write_file(patches, shipped.Weights({"x": np.zeros(1)}, {"recipe": dataclasses.asdict(recipe), "temperature": 1.0}))
    assert str(patches) in (complaint := call.refused("detect", radio, "--weights", patches)) and "b2" in complaint


def test_weights_of_ones_own(call: Caller, models: Path, radio: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes((models / "detector.safetensors").read_bytes())
    usual = call.succeeded("detect", radio)
    for path in models.iterdir():
        path.unlink()
    detection.shipped_network.cache_clear()
    assert "--weights" in call.refused("detect", radio)
    assert call.succeeded("detect", radio, "--weights", own) == usual


ODD: dict[str, Any] = {
    "one sample": (np.array([0.5]), 16000, "PCM_16"),
    "one sample at 96 kHz": (np.array([0.5]), 96000, "PCM_16"),
    "8 kHz, stereo, 24 bits": (np.stack([tone(1.5, 300), np.zeros(12000)]), 8000, "PCM_24"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_recordings_are_labelled(call: Caller, models: Path, tmp_path: Path, case: str) -> None:
    samples, rate, subtype = ODD[case]
    path = save(tmp_path / "odd.wav", samples, rate=rate, subtype=subtype)
    found = json.loads(call.succeeded("detect", path, "--json"))["segments"]
    assert found[0]["start"] == 0 and found[-1]["end"] == pytest.approx(samples.shape[-1] / rate, abs=1e-4)
    assert all(s["end"] > s["start"] for s in found)


# --- train detector ------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three speakers and three pieces, 3 s of each."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = []
    for n in range(3):
        made = generate_broadcast(n, seconds=3.0, training_seconds=1.0)
        for what, samples in (("speech", made.speech), ("music", made.music)):
            path = save(folder / f"{what}{n}.wav", 0.5 * samples / np.abs(samples).max(), rate=16000)
            row = dict.fromkeys(MANIFEST_COLUMNS, "") | {"path": path.name, "category": what, "split_group": path.stem}
            rows.append(row | {"duration_s": 3, "sample_rate": 16000, "channels": 1, "licence": "CC0" if n else "CC BY-NC"})
    with (folder / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, MANIFEST_COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return folder


def recipe_file(folder: Path, **changed: Any) -> Path:
    path = folder / "recipe.json"
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(RECIPE, **changed))))
    return path


@pytest.mark.loose_arrays  # optax
def test_train_goes_on_and_is_heard(
    call: Caller, corpus: Path, radio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_commands, "CALIBRATING", 2)
    out = tmp_path / "trained"
    line = ("train", "detector", "--data", corpus, "-o", out, "--config", recipe_file(tmp_path, epochs=7), "-q")
    first = json.loads(call.succeeded(*line, "--epochs", 1, "--json"))
    assert first["epochs"] == 1 and first["recipe"]["epochs"] == 1 and first["recipe"]["bands"] == 20
    assert first["data"]["speech"] == {"items": 3, "groups": 3}
    assert {"weights.safetensors", "config.json", "metrics.csv", "checkpoints"} <= {p.name for p in out.iterdir()}
    once = (out / "metrics.csv").read_text().splitlines()
    text = call.succeeded(*line, "--epochs", 2)
    assert str(out / "weights.safetensors") in text and " of 2 is kept" in text
    twice = (out / "metrics.csv").read_text().splitlines()
    assert twice[:2] == once and len(twice) == 3
    settings = shipped.read_file(out / "weights.safetensors").settings
    assert settings["labels"] == list(detection.LABELS) and settings["licences"] == ["CC BY-NC", "CC0"]
    assert settings["temperature"] != 1 and any(settings["bias"]), "it is calibrated"
    heard = json.loads(call.succeeded("detect", radio, "--weights", out / "weights.safetensors", "--json"))
    assert heard["segments"][-1]["end"] == 12

    weights = (out / "weights.safetensors").read_bytes()
    assert "task.bands" in call.refused(*line, "--bands", 24)
    assert "task.data" in call.refused(*line, "--redistributable")
    assert (out / "weights.safetensors").read_bytes() == weights


def test_a_patch_network_is_written_too(
    call: Caller, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its steps, which take a minute to compile."""
    recipe = Recipe(network="b2", head="single", feature="LMS", bands=20, patch=68, augment=False, crops=1, crop_seconds=1.0)
    monkeypatch.setattr(train, "train", lambda task, *_, **__: (
        task.batch(0),
        train.Trained(task.init(jax.random.key(0)), 1, 1, 0.5, "epochs", [{"epoch": 1.0, "validation/accuracy": 0.5}]),
    )[1])  # fmt: skip
    (tmp_path / "out").mkdir()
    config = tmp_path / "b2.json"
    config.write_text(json.dumps(dataclasses.asdict(recipe)))
    line = ("train", "detector", "--data", corpus, "-o", tmp_path / "out", "--config", config)
    document = json.loads(call.succeeded(*line, "--json"))
    weights = shipped.read_file(tmp_path / "out" / "weights.safetensors")
    assert Recipe(**weights.settings["recipe"]) == recipe and document["recipe"]["network"] == "b2"
    assert weights.settings["labels"] == ["music", "speech", "speech+music"]


def test_what_the_readme_trains_is_what_it_detects_with(
    call: Caller, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = (at for at in README.read_text(encoding="utf-8").splitlines() if at.strip().startswith("bayessep train detector"))
    (then,) = (at for at in README.read_text(encoding="utf-8").splitlines() if re.match(r" *bayessep detect .*--weights", at))
    monkeypatch.chdir(tmp_path)
    corpus.rename(tmp_path / "recordings")
    read: list[Recipe] = []
    monkeypatch.setattr("bayessep.detector_training.read_recipe", lambda *given: read.append(read_recipe(*given)) or read[-1])
    monkeypatch.setattr(train, "train", lambda task, *_, **__: train.Trained(
        task.init(jax.random.key(0)), 1, 1, 0.5, "epochs", [{"epoch": 1.0, "validation/accuracy": 0.5}]
    ))  # fmt: skip
    (tmp_path / "trained").mkdir()
    outcome = call(*line.split()[1:], "-q")
    assert (outcome.code, outcome.err) == (0, "")
    weights = Path(then.split("--weights")[1].split()[0])
    assert detection.network_of(shipped.read_file(weights)).recipe == read[0]


def test_what_detect_will_not_run_is_said_beforehand(call: Caller, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    outcome = call("train", "detector", "--data", empty, "-o", tmp_path / "trained")
    assert outcome.code == 2 and "warning: bayessep detect does not run the network b3" in outcome.err
    assert "--network frames --neither --not-standardised" in outcome.err


def test_train_refuses(call: Caller, corpus: Path, tmp_path: Path) -> None:
    line = ("train", "detector", "--data", corpus, "-o", tmp_path / "trained")
    config = tmp_path / "recipe.toml"
    config.write_text("colour = 3\n")
    assert "'colour'" in call.refused(*line, "--config", config)
    config.write_text('bands = "many"\n')
    assert "bands" in call.refused(*line, "--config", config)
    assert "none.toml" in call.refused(*line, "--config", tmp_path / "none.toml")
    assert "b9" in call.refused(*line, "--network", "b9")
    assert "neither" in call.refused(*line, "--network", "frames")
    assert "decibels" in call.refused(*line, "--network", "frames", "--neither", "--not-standardised", "--feature", "MS")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "manifest.csv" in call.refused("train", "detector", "--data", empty, "-o", tmp_path / "trained")
    assert "all three" in call.refused(*line, "--process", 0)
    assert "HOST:PORT" in call.refused(*line, "--coordinator", "here", "--processes", 2, "--process", 0)
    assert "last of 2" in call.refused(*line, "--coordinator", "here:1", "--processes", 2, "--process", 2)


def test_divergence_is_one_sentence(call: Caller, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*args: Any, **options: Any) -> None:
        raise train.Diverged("the training loss became nan by step 20; the epochs before it are kept.")

    monkeypatch.setattr(train, "train", diverge)
    outcome = call("train", "detector", "--data", corpus, "-o", tmp_path / "out", "--config", recipe_file(tmp_path))
    assert (outcome.code, outcome.out) == (1, "")
    assert "became nan by step 20" in outcome.complaint and "--rate" in outcome.complaint and "--level" not in outcome.complaint


def test_scenes_of_a_batch_depend_on_seed_and_number_alone() -> None:
    rng = np.random.default_rng(0)
    items = Items(*([Item(str(n), str(n), rng.standard_normal(48000).astype(np.float32)) for n in range(2)] for _ in range(2)))
    per_epoch = RECIPE.steps_per_epoch

    def batches(recipe: Recipe, *numbers: int) -> list[list[bytes]]:
        made = task(recipe, items, items)
        return [[np.asarray(x).tobytes() for x in made.batch(n)] for n in numbers]

    first = batches(RECIPE, 0, 1, per_epoch)
    assert batches(RECIPE, per_epoch, 1, 0) == first[::-1], "whatever came before"
    assert first[0][0] != first[2][0] and batches(dataclasses.replace(RECIPE, seed=1), 0)[0][0] != first[0][0]
    batch = task(RECIPE, items, items).batch(0)
    n, steps = batch.label.shape
    assert (n, steps) == (3, batch.features.shape[1] // 4) and batch.ratio.shape == (n, steps, 2)
    for label, ratio in ((detector.NEITHER, [0, 0]), (detector.SPEECH, [0, 1]), (detector.MUSIC, [1, 0])):
        assert (batch.ratio[batch.label == label] == ratio).all()


# --- models --------------------------------------------------------------------------------------------------------------


def test_models(call: Caller, models: Path) -> None:
    text = call.succeeded("models", "list")
    assert "detector" in text and "MB" in text and "Apache-2.0" in text and "frames" in text
    row = json.loads(call.succeeded("models", "list", "--json"))["models"][0]
    assert row["name"] == "detector" and row["licence"] == "Apache-2.0, as the rest."
    assert row["bytes"] == (models / "detector.safetensors").stat().st_size
    text = call.succeeded("models", "info", "detector")
    assert "It has learned nothing." in text and '"temperature": 0.05' in text
    document = json.loads(call.succeeded("models", "info", "detector", "--json"))
    assert document["card"] == CARD and document["sha256"] == row["sha256"] and document["settings"]["recipe"]["bands"] == 20
    assert json.loads(call.succeeded("models", "verify", "--json")) == {"ok": True, "models": {"detector": None}}
    assert "choose from detector" in call.refused("models", "info", "magic")
    assert "choose from detector" in call.refused("models", "verify", "magic")


@pytest.mark.parametrize("damage", ["a bit", "cut", "gone"])
def test_damage_is_found(call: Caller, models: Path, damage: str) -> None:
    path = models / "detector.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(content if damage == "a bit" else content[:100])
    outcome = call("models", "verify", "detector")
    assert outcome.code == 1 and outcome.out.startswith("detector: ") and "undamaged" not in outcome.out
    assert json.loads(call("models", "verify", "--json").out)["ok"] is False
    assert call("models", "list").code == 0


def test_no_models(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "nothing")
    assert "no models" in call.succeeded("models", "list")
    outcome = call("models", "verify")
    assert outcome.code == 1 and "nothing to verify" in outcome.out
    assert json.loads(call("models", "verify", "--json").out) == {"ok": False, "models": {}}
    assert json.loads(call.succeeded("models", "list", "--json")) == {"models": []}
    assert "none" in call.refused("models", "info", "detector")


@pytest.mark.parametrize(
    ("card", "licence"),
    [("# X\n\n**Licence.** Apache-2.0.\n", "Apache-2.0."), ("## License\n\nMIT\n", "MIT"), ("- licence: CC0", "CC0"), ("", ""),
     ("**Licence.** MIT. Nothing under NC\nwas used.\n\n## More\n", "MIT. Nothing under NC was used."),
     ("## Licence\n\nCC BY 4.0,\nas the data.\n\nMore.\n", "CC BY 4.0, as the data."), ("- Licence: CC0\n- Size: 3\n", "CC0")],
)  # fmt: skip
def test_licence_of(card: str, licence: str) -> None:
    assert network_commands.licence_of(card) == licence


# --- help ----------------------------------------------------------------------------------------------------------------


def _command(*names: str) -> Any:
    command: Any = typer.main.get_command(cli.app)
    for name in names:
        command = command.commands[name]
    return command


VERBS = [
    *[("detect",), ("export", "conv-tasnet")],
    *[("train", name) for name in ("detector", "conv-tasnet", "blstm-mask", "deep-karaoke", "idempotent-masker")],
    *[("models", "list"), ("models", "info"), ("models", "verify")],
]


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_every_option(call: Caller, verb: tuple[str, ...]) -> None:
    text = call.succeeded(*verb, "--help")
    parameters = _command(*verb).params
    options = [o for p in parameters for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
    assert {"--json", "--quiet"} <= set(options) and [o for o in options if o not in text] == []
    assert [p.name for p in parameters if not p.help] == []
    assert f"bayessep {' '.join(verb)}" in text.split("Example")[1]


def test_flags_are_the_fields_of_the_recipe() -> None:
    said = {p.name: p.show_default for p in _command("train", "detector").params if isinstance(p.show_default, str)}
    words = {"augment": "augment", "neither": "no-neither", "standardised": "standardised", "songs": "no-songs"}
    assert said == {f.name: words.get(f.name, str(f.default)) for f in dataclasses.fields(Recipe)}
    assert (Recipe().augment, Recipe().neither, Recipe().standardised) == (True, False, True)


def test_formats_are_those_of_segments() -> None:
    from bayessep import cli_networks

    assert set(cli_networks.Format) == set(network_commands.ENDINGS) == set(ENDINGS)
    assert {segments.format_of(f"x{ending}") for ending in network_commands.ENDINGS.values()} == set(ENDINGS)


def test_licences_of_what_ships_are_whole(call: Caller) -> None:
    rows = json.loads(call.succeeded("models", "list", "--json"))["models"]
    assert {row["name"] for row in rows} >= {"detector", "general"}
    assert all(row["licence"].endswith(".") for row in rows)
    what = {row["name"]: row["what"] for row in rows}
    assert what["attention-asr"] == "Recognises digits, zero to nine, over music: `bayessep transcribe --recogniser attention-asr`"
    assert what["general"] == "General templates of speech and of music" and what["detector"].endswith("bands 120)")
