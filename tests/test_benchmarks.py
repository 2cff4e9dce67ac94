"""Rows of `make bench` that need a library which is not there say so; those beside torch compare like with like."""

import json
import sys

import pytest

from bayessep.models.attention_asr import AttentionAsr
from bayessep.models.conv_tasnet import ConvTasNet
from bayessep.models.idempotent_masker import IdempotentMasker
from bayessep.models.joint_asr import JointAsr
from bayessep.separator_training import Recipe
from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import images, waveforms, words
from tests.benchmarks.beside_torch import SAME

TINY = ConvTasNet(filters=12, length=8, bottleneck=6, hidden=10, kernel=3, blocks=2, repeats=2)
TINY_RECOGNISER = AttentionAsr(labels=6, layers=1, units=4, channels=2, attention=4, filters=2, reach=4, mels=8)
TINY_MASKER = IdempotentMasker(bins=32, frames=32, hop=16, channels=4, blocks=1, critic=4, layers=2, scales=2)


@pytest.mark.parametrize("row", ["conv_tasnet", "conv_tasnet_step", "masker_step"])
def test_without_torch_a_row_is_left_out_with_the_reason(
    row: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--row", row])
    benchmarks.main()
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == row
    assert "torch is not installed" in found["skipped"] and "bayessep[bench]" in found["skipped"]


@pytest.mark.parametrize("as_json", [False, True])
def test_the_table_goes_on_after_a_row_that_is_left_out(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = benchmarks._row(1.0, 2.0, 1.0, "something") | {"name": "scores", "peak_gib": 0.5}
    rows = {"conv_tasnet": {"name": "conv_tasnet", "skipped": "torch is not installed"}, "scores": measured}
    monkeypatch.setattr(benchmarks, "_measure", rows.get)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "conv_tasnet", "--only", "scores", *["--json"] * as_json])
    benchmarks.main()
    said = capsys.readouterr().out
    if as_json:
        assert json.loads(said) == {"rows": list(rows.values())}
    else:
        assert "skipped: torch is not installed" in said and "0.500" in said


@pytest.mark.loose_arrays  # optax
def test_both_networks_compute_the_same() -> None:
    pytest.importorskip("torch", reason="the extra bench is not installed")
    assert waveforms.forward(TINY).difference < SAME
    assert waveforms.steps(TINY).difference < SAME


@pytest.mark.loose_arrays  # optax
@pytest.mark.parametrize("network", ["conv-tasnet", "blstm-mask"])
def test_separators_learn_in_their_row(network: str) -> None:
    step = waveforms.training(Recipe(network=network, batch=1, seconds=0.1))
    assert step() != step()


@pytest.mark.parametrize("gradients", [False, True])
def test_products_are_those_of_the_network(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(waveforms.np, "matmul", lambda x, w, out: made.append(x.shape[0] * x.shape[1] * w.shape[1]))
    waveforms.products(TINY, gradients=gradients)()
    frames = round(waveforms.SECONDS * waveforms.RATE) // 4 + 1
    inside = 8 * 12 + 12 * 6 + 4 * 2 * 6 * 10 + 6 * 24 + 2 * 12 * 8
    assert sum(made) == frames * inside * (3 if gradients else 1)


@pytest.mark.loose_arrays  # optax
def test_both_maskers_learn_the_same() -> None:
    pytest.importorskip("torch", reason="the extra bench is not installed")
    compared = images.steps(TINY_MASKER)
    assert compared.difference < SAME
    for _ in range(3):
        assert compared.ours() == pytest.approx(compared.theirs(), rel=2e-5)


@pytest.mark.loose_arrays  # optax
def test_the_recogniser_learns_and_says_something_in_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "SECONDS", 0.2)
    monkeypatch.setattr(words, "LABELS", 4)
    step = words.step(TINY_RECOGNISER)
    assert step() != step()  # it goes on
    tuned = words.joint_step(JointAsr(TINY, TINY_RECOGNISER), 2)
    assert tuned() != tuned()
    assert words.decoding(TINY_RECOGNISER)().shape == (words.UTTERANCES, 4)
