"""Exported networks say what JAX says, as onnxruntime runs them; and a model that says something else is not written."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bayessep import __version__, export, neural, shipped
from bayessep.errors import UserError
from bayessep.models import blstm_mask, conv_tasnet
from bayessep.models.conv_tasnet import ConvTasNet
from tests.commandline import Caller, files

TINY = ConvTasNet(filters=12, length=8, bottleneck=6, hidden=10, kernel=3, blocks=2, repeats=2)
RATE = 8000
Runner = Callable[[Any, np.ndarray], np.ndarray]


def _parameters(config: ConvTasNet, seed: int = 0) -> nnx.State:
    """Random ones, gains and biases, too: at 1 and 0, mistakes in them would not show."""
    parameters = conv_tasnet.init(config, jax.random.key(seed)).parameters
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype), parameters)


def _waveforms(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture
def onnx() -> Any:
    pytest.importorskip("onnxruntime", reason="needs the extra bayessep[export]")
    return pytest.importorskip("onnx", reason="needs the extra bayessep[export]")


@pytest.fixture
def run(onnx: Any) -> Runner:
    """What a model, or the content of a file, makes of waveforms."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def run(model: Any, x: np.ndarray) -> np.ndarray:
        content = model if isinstance(model, bytes) else model.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return session.run(["sources"], {"mixture": x})[0]

    return run


# --- the model -----------------------------------------------------------------------------------------------------------

CHANGES: list[dict[str, Any]] = [
    {},
    {"mask": "sigmoid", "consistent": True},
    {"norm": "frame", "kernel": 5},
    {"norm": "frame", "causal": True, "mask": "sigmoid"},
    {"norm": "cumulative"},
    {"norm": "cumulative", "causal": True, "kernel": 5, "blocks": 3, "consistent": True},
    {"length": 2, "kernel": 1, "blocks": 1, "repeats": 1},
    {"filters": 3, "bottleneck": 1, "hidden": 1},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_a_model_says_what_the_network_says(changes: dict[str, Any], run: Runner, onnx: Any) -> None:
    config = dataclasses.replace(TINY, **changes)
    parameters = _parameters(config)
    model = export.conv_tasnet_model(config, parameters, RATE)
    onnx.checker.check_model(model, full_check=True)
    x = _waveforms(3, 203)
    for n in (1, 3, 4, 8, 67, 203):  # a sample, less than a hop and than a frame, whole hops, odd ones, long
        alone = np.where(np.arange(203) < n, x, 0)
        wanted = np.asarray(conv_tasnet.predict(config, parameters, jnp.asarray(alone), jnp.asarray(n)))[..., :n]
        for batch in (1, 3):
            found = run(model, x[:batch, :n])
            assert found.dtype == np.float32 and found.shape == (batch, 2, n)
            np.testing.assert_allclose(found, wanted[:batch], atol=2e-5)
    assert np.abs(wanted).max() > 0.1


@pytest.mark.parametrize("consistent", [True, False])
def test_a_model_hears_a_mixture_upside_down_as_separate_does(run: Runner, onnx: Any, consistent: bool) -> None:
    config = dataclasses.replace(TINY, consistent=consistent)
    parameters, x = _parameters(config), _waveforms(3, 203)
    model = export.conv_tasnet_model(config, parameters, RATE, both_signs=True)
    onnx.checker.check_model(model, full_check=True)
    found = run(model, x)
    upright, turned = (np.asarray(conv_tasnet.predict(config, parameters, jnp.asarray(one))) for one in (x, -x))
    np.testing.assert_allclose(found, (upright - turned) / 2, atol=2e-5)
    assert np.abs(found - upright).max() > 1e-3
    if consistent:
        separator = neural.Separator("conv-tasnet", config, parameters, RATE, both_signs=True)
        np.testing.assert_allclose(found, separator.predict(x, 203, 0), atol=2e-5)
    assert export.check(model, config, parameters, both_signs=True) < 1e-5 < 1e-4 < export.check(model, config, parameters)
    assert {entry.key: entry.value for entry in model.metadata_props}["both_signs"] == "true"


def test_silence_is_silence(run: Runner) -> None:
    for norm in conv_tasnet.NORMS:
        config = dataclasses.replace(TINY, norm=norm)
        assert not run(export.conv_tasnet_model(config, _parameters(config), RATE), np.zeros((1, 50), np.float32)).any()


def test_cumulative_norms_of_long_recordings_are_exact(run: Runner) -> None:
    """Added up in single precision, frame after frame, they would be off by three times as much."""
    config = dataclasses.replace(TINY, norm="cumulative", causal=True, blocks=1, repeats=1)
    parameters, x = _parameters(config), _waveforms(1, 400_000)
    found = run(export.conv_tasnet_model(config, parameters, RATE), x)
    np.testing.assert_allclose(found, conv_tasnet.predict(config, parameters, jnp.asarray(x)), atol=1.2e-5)


def test_metadata(onnx: Any) -> None:
    config = dataclasses.replace(TINY, precision="bfloat16")
    parameters = _parameters(config)
    model = export.conv_tasnet_model(config, parameters, RATE)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["sample_rate"] == "8000" and about["sources"] == "speech,music" and about["bayessep"] == __version__
    assert ConvTasNet(**json.loads(about["config"])) == TINY
    (taken,), (made,) = model.graph.input, model.graph.output
    sizes = [[d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in (taken, made)]
    assert (taken.name, made.name) == ("mixture", "sources")
    assert sizes == [["batch", "samples"], ["batch", 2, "samples"]]
    assert model == export.conv_tasnet_model(config, parameters, RATE)
    assert sum(np.prod(c.dims) for c in model.graph.initializer if c.data_type == onnx.TensorProto.FLOAT) == pytest.approx(
        conv_tasnet.parameter_count(config) + TINY.filters * TINY.length + 1  # the decoder twice, and epsilon
    )


# --- the check -----------------------------------------------------------------------------------------------------------


def test_the_check_hears_every_parameter(onnx: Any) -> None:
    parameters = _parameters(TINY)
    model = export.conv_tasnet_model(TINY, parameters, RATE)
    assert export.check(model, TINY, parameters) < export.TOLERANCE / 10
    places, form = jax.tree.flatten(parameters)
    rng = np.random.default_rng(2)
    for n, x in enumerate(places):
        near = x + jnp.asarray(0.01 * rng.normal(size=x.shape), x.dtype)
        changed = jax.tree.unflatten(form, [*places[:n], near, *places[n + 1 :]])
        assert export.check(model, TINY, changed) > export.TOLERANCE
    nothing = jax.tree.unflatten(form, [x * jnp.float32(jnp.nan) for x in places])
    assert np.isnan(export.check(model, TINY, nothing))


def test_the_check_hears_how_a_network_is_built(onnx: Any) -> None:
    frame = dataclasses.replace(TINY, norm="frame")
    parameters = _parameters(frame)
    model = export.conv_tasnet_model(frame, parameters, RATE)
    for changes in ({"norm": "cumulative"}, {"mask": "sigmoid"}, {"causal": True}, {"consistent": True}):
        assert export.check(model, dataclasses.replace(frame, **changes), parameters) > 10 * export.TOLERANCE


# --- files ---------------------------------------------------------------------------------------------------------------


def test_what_differs_is_not_written(onnx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "separator.onnx"
    parameters = _parameters(TINY)
    model = export.conv_tasnet_model
    with monkeypatch.context() as broken:
        broken.setattr(export, "conv_tasnet_model", lambda config, _, *rest: model(config, _parameters(config, 1), *rest))
        with pytest.raises(UserError, match=r"separator.onnx is not written: .* more than 0.0001"):
            export.write(path, TINY, parameters, RATE)
        assert not files(tmp_path)
        path.parent.mkdir()
        path.write_text("of an earlier time")
        with pytest.raises(UserError, match="is not written"):
            export.write(path, TINY, parameters, RATE)
        with pytest.raises(UserError, match="is not written"):
            export.write(path, TINY, jax.tree.map(lambda x: x * jnp.float32(jnp.nan), parameters), RATE)
        assert files(tmp_path) == {path.parent: None, path: b"of an earlier time"}
    export.write(path, TINY, parameters, RATE)
    assert list(files(path.parent)) == [path] and len(path.read_bytes()) > 1000


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    separator = neural.Separator("conv-tasnet", TINY, _parameters(TINY), RATE)
    shipped.write_file(path, neural.weights_of(separator))
    return path


def test_the_verb(call: Caller, trained: Path, run: Runner, tmp_path: Path) -> None:
    path = tmp_path / "models" / "separator.onnx"
    text = call.succeeded("export", "conv-tasnet", "--weights", trained, "-o", path)
    assert text.startswith(f"{path}: ") and "8000 Hz, speech and music" in text
    content = path.read_bytes()
    document = json.loads(call.succeeded("export", "conv-tasnet", "--weights", trained, "-o", path, "--json"))
    assert path.read_bytes() == content and list(files(path.parent)) == [path]
    assert document.pop("difference") < 1e-5
    assert document == {
        "path": str(path),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "sample_rate": RATE,
        "sources": ["speech", "music"],
        "opset": export.OPSET,
    }
    x = _waveforms(1, 99)
    np.testing.assert_allclose(run(content, x), conv_tasnet.predict(TINY, _parameters(TINY), jnp.asarray(x)), atol=2e-5)


def test_the_verb_refuses(call: Caller, trained: Path, onnx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(place: Path, weights: Path = trained) -> str:
        return call.refused("export", "conv-tasnet", "--weights", weights, "-o", place, "-q")

    place = tmp_path / "separator.onnx"
    assert "is a folder" in refused(tmp_path)
    assert "not a directory" in refused(trained / "separator.onnx")
    assert "would be replaced" in refused(trained)
    assert "separator.txt is not an ONNX file name; let it end in .onnx" in refused(tmp_path / "separator.txt")
    assert "none.safetensors" in refused(place, tmp_path / "none.safetensors")
    other = blstm_mask.BlstmMask(1, 4, window=64, hop=32)
    weights = neural.weights_of(neural.Separator("blstm-mask", other, blstm_mask.init(other, jax.random.key(0)).parameters, RATE))
    shipped.write_file(tmp_path / "blstm.safetensors", weights)
    assert "blstm-mask" in refused(place, tmp_path / "blstm.safetensors")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "nothing")
    assert "--weights" in call.refused("export", "conv-tasnet", "-o", place, "-q")


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra_it_is_named(
    call: Caller, trained: Path, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "onnxruntime":
        pytest.importorskip("onnx", reason="needs the extra bayessep[export]")
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    complaint = call.refused("export", "conv-tasnet", "--weights", trained, "-o", tmp_path / "separator.onnx", "-q")
    assert f"{missing} is not installed; pip install 'bayessep[export]'" in complaint
