"""Separate by networks from the command line: stems, labels, refusals; and the verbs that train them."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import typer

from bayessep import audio, cli, commands, karaoke, neural, separator_commands, shipped
from bayessep.models import conv_tasnet
from bayessep.models.conv_tasnet import ConvTasNet
from bayessep.neural import Separator
from bayessep.separator_training import Recipe
from bayessep.timeline import BOTH, MUSIC, SILENCE, SPEECH
from tests.commandline import UNUSABLE, Caller

RATE = 4000
TINY = ConvTasNet(filters=8, length=8, bottleneck=6, hidden=8, blocks=2, repeats=1, consistent=True)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    separator = Separator("conv-tasnet", TINY, conv_tasnet.init(TINY, jax.random.key(0)).parameters, RATE)
    shipped.write_file(tmp_path / "weights.safetensors", neural.weights_of(separator))
    return tmp_path / "weights.safetensors"


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).normal(0, 0.1, (2, 3 * 8000)).astype(np.float32)
    audio.write(tmp_path / "mix.wav", x, 8000, "FLOAT")
    return tmp_path / "mix.wav"


def _separate(call: Caller, mix: Path, weights: Path, tmp_path: Path, *more: str) -> Any:
    return call("separate", mix, "--method", "conv-tasnet", "--weights", weights, "-o", tmp_path / "apart", *more)


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_recordings_are_refused_by_name(call: Caller, weights: Path, tmp_path: Path, case: str) -> None:
    make, word = UNUSABLE[case]
    bad = tmp_path / f"bad {case}.wav"
    make(bad)
    refused = _separate(call, bad, weights, tmp_path)
    assert refused.code == 2 and str(bad) in refused.err and word in refused.err
    assert not (tmp_path / "apart").exists()


def test_flags_are_the_fields_of_the_recipe() -> None:
    """What help says of a default is the recipe's own."""
    for network in ("conv-tasnet", "blstm-mask"):
        train = typer.main.get_command(cli.app).commands["train"].commands[network]
        said = {p.name: p.show_default for p in train.params if isinstance(p.show_default, str)}
        own = {"mask", "norm", "causal", "consistent"} if network == "blstm-mask" else set()
        known = {f.name: str(f.default) for f in dataclasses.fields(Recipe) if f.name not in own | {"network"}}
        assert said.keys() == known.keys()
        preset = {"mask", "norm", "consistent"}
        words = {"varied": "varied", "causal": "both-ways", "falls": "stays"}
        for name in known.keys() - preset:
            assert said[name] == words.get(name, known[name])


    train = typer.main.get_command(cli.app).commands["train"].commands["deep-karaoke"]
    said = {p.name: p.show_default for p in train.params if isinstance(p.show_default, str)}
    assert said == {f.name: str(f.default) for f in dataclasses.fields(karaoke.Recipe)} | {"varied": "varied"}


@pytest.mark.parametrize("long", [False, True])
def test_stems_add_up_and_the_document_tells(
    call: Caller, mix: Path, weights: Path, tmp_path: Path, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if long:
        monkeypatch.setattr(separator_commands.recordings, "LONG_SECONDS", 1.0)
    done = _separate(call, mix, weights, tmp_path, "--json")
    assert done.code == 0
    document = json.loads(done.out)
    assert document["method"] == "conv-tasnet" and document["network"]["sample_rate"] == RATE
    stems = [audio.read(tmp_path / "apart" / name) for name in ("speech.wav", "music.wav")]
    original = audio.read(mix).samples
    assert all(stem.sample_rate == 8000 and stem.samples.shape == original.shape for stem in stems)
    np.testing.assert_allclose(sum(s.samples for s in stems), document["output_gain"] * original, atol=1e-6)
    assert (tmp_path / "apart" / "labels.csv").exists()
    assert document["segments"][0]["start"] == 0 and document["segments"][-1]["end"] == 3.0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--bases", "10"), "--bases does not apply to conv-tasnet"),
        (("--draws", "2"), "--draws does not apply to conv-tasnet"),
        (("--independent",), "--chain does not apply to conv-tasnet"),
        (("--tolerance", "0"), "--tolerance does not apply to conv-tasnet"),
        (("--smoothing",), "--smoothing does not apply to conv-tasnet"),
    ],
)
def test_options_of_other_methods_are_refused(
    call: Caller, mix: Path, weights: Path, tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    done = _separate(call, mix, weights, tmp_path, *more)
    assert done.code == 2 and says in done.err
    assert not (tmp_path / "apart").exists()


def test_recordings_that_are_called_as_draws_are_stay(call: Caller, mix: Path, weights: Path, tmp_path: Path) -> None:
    """They were taken for those of an earlier call, and removed: the one that was read as well."""
    (tmp_path / "apart" / "draws").mkdir(parents=True)
    mine = [mix.rename(tmp_path / "apart" / "draws" / "speech-1.wav"), tmp_path / "apart" / "draws" / "speech-2.wav"]
    shutil.copy(*mine)
    held = mine[0].read_bytes()
    assert _separate(call, mine[0], weights, tmp_path).code == 0
    assert [path.read_bytes() for path in mine] == [held, held]
    account = tmp_path / "apart" / "separation.json"
    account.write_text(json.dumps({"output": {"draw 1": "draws/speech-1.wav"}}))
    assert "would be replaced" in _separate(call, mine[0], weights, tmp_path).err
    assert commands.earlier_draws(tmp_path / "apart") == ["draws/speech-1.wav"]
    assert _separate(call, mine[1], weights, tmp_path).code == 0
    assert [path.exists() for path in mine] == [False, True], "that of the earlier call is removed, and no other"


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="pipes have no names here")
def test_a_recipe_may_come_through_a_pipe(call: Caller, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"rate = -1.0\n")
    os.close(writer)
    told = call("train", "conv-tasnet", "--data", tmp_path, "-o", tmp_path / "out", "--config", f"/dev/fd/{reader}")
    os.close(reader)
    assert told.code == 2 and "rate" in told.err and "-1.0" in told.err


def test_what_is_missing_is_named(call: Caller, mix: Path, weights: Path, tmp_path: Path) -> None:
    none = call("separate", mix, "--method", "blstm-mask", "-o", tmp_path / "apart")
    assert none.code == 2 and "no blstm-mask is installed; give --weights FILE" in none.err
    other = call("separate", mix, "--method", "blstm-mask", "--weights", weights, "-o", tmp_path / "apart")
    assert other.code == 2 and "holds weights of conv-tasnet" in other.err
    bayes = call("separate", mix, "--method", "nmf", "--weights", weights, "-o", tmp_path / "apart")
    assert bayes.code == 2 and "--weights applies only to network methods" in bayes.err
    bayes = call("separate", mix, "--method", "nmf", "--smoothing", "-o", tmp_path / "apart")
    assert bayes.code == 2 and "--smoothing applies only to idempotent-masker" in bayes.err
    audio.write(tmp_path / "silent.wav", np.zeros((1, 4000), np.float32), RATE)
    silent = _separate(call, tmp_path / "silent.wav", weights, tmp_path)
    assert silent.code == 2 and "silent" in silent.err
    broken = _separate(call, mix, mix, tmp_path)
    assert broken.code == 2 and "holds no weights of bayessep" in broken.err
    assert not (tmp_path / "apart").exists()


def test_networks_and_ideal_masks_are_compared(call: Caller, mix: Path, weights: Path, tmp_path: Path) -> None:
    speech = audio.read(mix).samples.mean(0, keepdims=True) * np.float32(0.4)
    audio.write(tmp_path / "s.wav", speech, 8000)
    audio.write(tmp_path / "m.wav", speech[:, ::-1], 8000)
    truth = ["--reference-speech", tmp_path / "s.wav", "--reference-music", tmp_path / "m.wav"]
    names = ["conv-tasnet", "ideal-binary-mask"]
    line = ["compare", mix, "-o", tmp_path / "out", "--weights", weights, "--methods"]
    done = call(*line, ",".join(names), *truth, "--json")
    assert done.code == 0, done.err
    assert [row["method"] for row in json.loads(done.out)["rows"]] == ["mixture", *names]
    assert (tmp_path / "out" / "conv-tasnet" / "speech.wav").exists()
    for methods, more, says in (
        ("ideal-ratio-mask", (), "computed from the true sources: give --reference-speech"),
        ("blstm-mask", (), "holds weights of conv-tasnet, which is not among"),
        ("conv-tasnet", (weights,), "both hold weights of conv-tasnet"),
    ):
        bad = call("compare", mix, "-o", tmp_path / "bad", "--methods", methods, "--weights", weights, *more)
        assert bad.code == 2 and says in bad.err, bad.err
    assert not (tmp_path / "bad").exists()
    assert set(separator_commands.everything([weights], True)) >= {"conv-nmf", *names}


def test_labels_say_which_stem_is_heard(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(0), 2 * RATE
    speech, music = rng.normal(0, 0.1, (2, 1, 4 * n)).astype(np.float32)
    speech[:, n : 2 * n] *= 1e-3
    speech[:, 3 * n :] = 0
    music[:, :n] *= 1e-2
    music[:, 3 * n :] = 0
    names = [tmp_path / "speech.wav", tmp_path / "music.wav"]
    for path, stem in zip(names, (speech, music), strict=True):
        audio.write(path, stem, RATE, "FLOAT")
    found = separator_commands.labels_of(*names)
    assert [s.label for s in found] == [SPEECH, MUSIC, BOTH, SILENCE]
    np.testing.assert_allclose([s.start for s in found], [0, 2, 4, 6], atol=0.35)


@pytest.mark.loose_arrays  # optax
def test_networks_are_trained_from_the_command_line(call: Caller, tmp_path: Path) -> None:
    """The smallest training: one step of small mixtures, and its weights separate."""
    rng, rows = np.random.default_rng(0), []
    for n, kind in enumerate(("speech", "speech", "music", "music")):
        audio.write(tmp_path / f"{n}.wav", rng.normal(0, 0.1, (1, 16000)).astype(np.float32), 16000)
        rows.append(f"{n}.wav,{kind},g{n},1.0,16000,1,,,here,x,CC0")
    header = "path,category,split_group,duration_s,sample_rate,channels,transcript,genre_or_note,source_repo,source_path,licence"
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows]))
    trained = tmp_path / "trained"
    flags = ["--batch", "1", "--seconds", "0.1", "--held", "1", "--epochs", "1", "--steps-per-epoch", "1"]
    done = call("train", "blstm-mask", "--data", tmp_path, "-o", trained, *flags, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["recipe"]["network"] == "blstm-mask" and "validation/speech" in document["scores"]
    weights = trained / "weights.safetensors"
    separated = call("separate", tmp_path / "0.wav", "--method", "blstm-mask", "--weights", weights, "-o", tmp_path / "apart")
    assert separated.code == 0, separated.err
    assert (tmp_path / "apart" / "speech.wav").exists()
    (tmp_path / "recipe.json").write_text('{"network": "blstm-mask"}')
    begun = call("train", "blstm-mask", "--data", tmp_path, "-o", tmp_path / "on", *flags, "--start", weights, "--falls", "--json")
    assert begun.code == 0, begun.err
    worse = call("train", "blstm-mask", "--data", tmp_path, "-o", tmp_path / "worse", *flags, "--start", weights, "--rate", "0.9")
    assert worse.code == 0 and f"no epoch was better than {weights}" in worse.err
    for more, says in ((("--seed", "1"), "was trained with --seed 0"), (("--preset", "paper"), "holds a network whose layers")):
        bad = call("train", "blstm-mask", "--data", tmp_path, "-o", tmp_path / "bad", *flags, "--start", weights, *more)
        assert bad.code == 2 and says in bad.err, bad.err
    assert "does not say what was held out" not in begun.err and "was trained on a different set" not in begun.err
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows, rows[0].replace("g0", "g4")]))
    more = call("train", "blstm-mask", "--data", tmp_path, "-o", tmp_path / "more", *flags, "--start", weights)
    assert more.code == 0 and f"{weights} was trained on a different set of recordings, and others" in more.err
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows]))
    shipped_so = shipped.read_file(weights)
    kept = {name: value for name, value in shipped_so.settings.items() if name != "recipe"}
    foreign = tmp_path / "shipped.safetensors"
    shipped.write_file(foreign, shipped_so._replace(settings=kept | {"recipes": []}))
    of_others = call("train", "blstm-mask", "--data", tmp_path, "-o", tmp_path / "of", *flags, "--start", foreign)
    assert of_others.code == 0 and "does not say what was held out" in of_others.err
    itself = call("train", "blstm-mask", "--data", tmp_path, "-o", trained, *flags, "--start", weights)
    assert itself.code == 2 and weights.exists()
    other = call("train", "conv-tasnet", "--data", tmp_path, "-o", tmp_path / "x", "--config", tmp_path / "recipe.json")
    assert other.code == 2 and "is a recipe for blstm-mask" in other.err
    refused = call("train", "conv-tasnet", "--data", tmp_path, "-o", tmp_path / "x", "--causal", "--norm", "global")
    assert refused.code == 2 and "take cumulative or frame" in refused.err


@pytest.mark.loose_arrays  # optax
def test_deep_karaoke_is_trained_and_separates_from_the_command_line(
    call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(karaoke.PRESETS, "small", karaoke.DeepKaraoke(frames=2, width=3))
    rng, rows = np.random.default_rng(0), []
    for song in ("one", "two"):
        for part in ("vocals", "accompaniment"):
            audio.write(tmp_path / song / f"{part}.wav", rng.normal(0, 0.1, (1, 20_000)).astype(np.float32), 44100)
            rows.append(f"{song}/{part}.wav,stems,artist,0.4,44100,1,,,here,x,CC0")
    header = "path,category,split_group,duration_s,sample_rate,channels,transcript,genre_or_note,source_repo,source_path,licence"
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows]))
    flags = ["--batch", "2", "--epochs", "1", "--steps-per-epoch", "1"]
    done = call("train", "deep-karaoke", "--data", tmp_path, "-o", tmp_path / "trained", *flags, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["data"]["songs"] == ["one", "two"]
    song, weights = tmp_path / "one" / "vocals.wav", tmp_path / "trained" / "weights.safetensors"
    for more in ((), ("--alpha", "0.3")):
        apart = call("separate", song, "--method", "deep-karaoke", "--weights", weights, "-o", tmp_path / "apart", *more, "--json")
        assert apart.code == 0, apart.err
        stems = [audio.read(tmp_path / "apart" / name).samples for name in ("speech.wav", "music.wav")]
        gain = json.loads(apart.out)["output_gain"]
        np.testing.assert_allclose(sum(stems), gain * audio.read(song).samples, atol=1e-6)
    bad = call("separate", song, "--method", "deep-karaoke", "--weights", weights, "-o", tmp_path / "bad", "--alpha", "2")
    assert bad.code == 2 and "alpha is 2" in bad.err
    none = call("separate", song, "--method", "deep-karaoke", "-o", tmp_path / "bad")
    assert none.code == 2 and "no deep-karaoke is installed" in none.err
    other = call("separate", song, "--method", "nmf", "--alpha", "0.5", "-o", tmp_path / "bad")
    assert other.code == 2 and "--alpha applies only to deep-karaoke and conv-nmf" in other.err
    assert not (tmp_path / "bad").exists()
