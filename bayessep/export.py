"""Export Conv-TasNet as an ONNX file, which runs without Python: in browsers, on phones, inside other programs.

The graph is built node by node from the equations of `models.conv_tasnet`, in float32, for any batch size and length. Before a file
is written, its output in onnxruntime is compared with that of the network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from bayessep import __version__, neural, output
from bayessep.devices import begin
from bayessep.errors import UserError
from bayessep.extras import library
from bayessep.models import conv_tasnet
from bayessep.models.conv_tasnet import EPS, ConvTasNet
from bayessep.models.waveform_separation import SOURCES
from bayessep.terminal import Terminal

OPSET = 18
"""The oldest opset whose reductions take their axes as inputs; onnxruntime supports it since 1.14."""
TOLERANCE = 1e-4
"""Largest accepted difference of an exported network (`check`)."""
LONGEST = 32_000
"""Length in samples of the longest waveform that `check` compares."""

Model = Any
"""onnx.ModelProto; onnx is an optional dependency."""


class _Graph:
    """Builder of an ONNX graph from nodes and constants, which are referred to by name."""

    def __init__(self) -> None:
        self.onnx = library("onnx", "export")
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant array and return its name; a name that exists keeps its first value."""
        if name not in self.constants:
            self.constants[name] = self.onnx.numpy_helper.from_array(np.array(value, dtype, order="C"), name)
        return name

    def integers(self, *numbers: int) -> str:
        """Add a constant vector of integers, such as axes or bounds, and return its name."""
        return self.constant("integers" + "".join(f".{n}" for n in numbers), numbers, np.int64)

    def __call__(self, operator: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        result = result or f"{operator.lower()}.{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [result], name=result, **attributes))
        return result


def conv_tasnet_model(config: ConvTasNet, parameters: PyTree, sample_rate: int, both_signs: bool = False) -> Model:
    """Build the ONNX model of a network: input ``mixture`` (batch, samples), output ``sources`` (batch, 2, samples), speech first.

    Its metadata state the sample rate, the order of the sources, the mean square of training mixtures, the network and its config,
    whether both signs are averaged, and the version of this package. The same network gives the same model. Its norm `global`
    is computed over the whole input. Unlike `separate`, it neither leaves out silence, nor scales its input to the mean square of
    training mixtures, nor removes an offset.

    Args:
        config: config of the network; its precision does not matter here.
        parameters: its parameters.
        sample_rate: sample rate of its training data, in Hz.
        both_signs: average the outputs for the mixture and for its negative (`neural.Separator`).

    Raises:
        UserError: onnx is not installed.
    """
    model, g = nnx.merge(conv_tasnet.graph(config), parameters), _Graph()
    hop = config.hop

    # Pad with a hop of silence on either side, after completing the last hop.
    samples = g("Shape", "mixture", start=1, end=2)
    mixture = g("Concat", "mixture", g("Neg", "mixture"), axis=0) if both_signs else "mixture"
    behind = g("Add", g("Mod", g("Neg", samples), g.integers(hop)), g.integers(hop))
    padded = g("Pad", mixture, g("Concat", g.integers(0, hop, 0), behind, axis=0))
    encoder = g.constant("encoder", np.asarray(model.encoder[...]).T[:, None])
    w = g("Relu", g("Conv", g("Unsqueeze", padded, g.integers(1)), encoder, strides=[hop]))
    y = _normalised(g, w, "frame", "norm", model.norm_gain[...], model.norm_bias[...], "")
    y = _product(g, y, "narrow", model.narrow[...])

    count = ""
    if config.norm == "cumulative":  # number of frames so far: 1, 2, 3 ...
        one = g.constant("one", 1, np.int64)
        last = g("Add", g("Squeeze", g("Shape", w, start=2, end=3)), one)
        count = g("Cast", g("Range", one, last, one), to=g.onnx.TensorProto.DOUBLE)
    for r in range(config.repeats):
        for x in range(config.blocks):
            own = conv_tasnet.Blocks(*(part[r, x] for part in model.stacked))
            y = _block(g, y, own, f"{r}.{x}", 2**x, config, count)

    masks = g("Relu" if config.mask == "relu" else "Sigmoid", _product(g, y, "masks", model.masks[...]))
    decoder = g.constant("decoder", np.concatenate([np.asarray(model.decoder[...])[:, None]] * 2))
    both = g("Mul", masks, g("Concat", w, w, axis=1))
    found = g("ConvTranspose", both, decoder, strides=[hop], group=2)
    ends = g("Add", samples, g.integers(hop))
    found = g("Slice", found, g.integers(hop), ends, g.integers(2))
    if config.consistent:
        missing = g("Sub", g("Unsqueeze", mixture, g.integers(1)), g("ReduceSum", found, g.integers(1)))
        found = g("Add", found, g("Mul", missing, g.constant("half", 0.5)))
    if both_signs:
        batch = g("Shape", "mixture", start=0, end=1)
        upright = g("Slice", found, g.integers(0), batch, g.integers(0))
        turned = g("Slice", found, batch, g("Add", batch, batch), g.integers(0))
        found = g("Mul", g("Sub", upright, turned), g.constant("half", 0.5))
    g("Identity", found, result="sources")
    return _finished(g, config, sample_rate, both_signs)


def _product(g: _Graph, x: str, name: str, w: Any) -> str:
    """Matrix product, as a 1×1 convolution; time is the last axis here, as in ONNX convolutions."""
    return g("Conv", x, g.constant(name, np.asarray(w).T[:, :, None]))


def _normalised(g: _Graph, x: str, norm: str, name: str, gain: Any, bias: Any, count: str) -> str:
    """ONNX version of `conv_tasnet.normalisation`, with gain and bias."""
    if norm == "cumulative":
        # onnxruntime sums sequentially: in single precision, the error after ten minutes would exceed `TOLERANCE`.
        double, float32 = g.onnx.TensorProto.DOUBLE, g.onnx.TensorProto.FLOAT

        def so_far(of: str) -> str:
            each = g("Cast", g("ReduceMean", of, g.integers(1)), to=double)
            return g("Div", g("CumSum", each, g.constant("time", 2, np.int64)), count)

        mean = so_far(x)
        variance = g("Sub", so_far(g("Mul", x, x)), g("Mul", mean, mean))
        variance = g("Cast", g("Max", variance, g.constant("nothing", 0, np.float64)), to=float32)
        centred = g("Sub", x, g("Cast", mean, to=float32))
    else:
        axes = g.integers(1) if norm == "frame" else g.integers(1, 2)
        centred = g("Sub", x, g("ReduceMean", x, axes))
        variance = g("ReduceMean", g("Mul", centred, centred), axes)
    deviation = g("Sqrt", g("Add", variance, g.constant("epsilon", EPS)))
    scale = g("Div", g.constant(f"{name}.gain", np.asarray(gain)[:, None]), deviation)
    return g("Add", g("Mul", centred, scale), g.constant(f"{name}.bias", np.asarray(bias)[:, None]))


def _block(
    g: _Graph, y: str, own: conv_tasnet.Blocks, place: str, dilation: int, config: ConvTasNet, count: str
) -> str:
    """ONNX version of `conv_tasnet.block`."""

    def settled(x: str, n: int) -> str:
        x = g("PRelu", x, g.constant(f"slope.{place}.{n}", np.reshape(own.slope[n], (1, 1))))
        return _normalised(g, x, config.norm, f"{place}.{n}", own.gain[n], own.bias[n], count)

    reach = (config.kernel - 1) * dilation
    before = reach if config.causal else reach // 2
    taps = g.constant(f"taps.{place}", np.asarray(own.taps).T[:, None])
    h = settled(_product(g, y, f"enter.{place}", own.enter), 0)
    h = g("Conv", h, taps, group=config.hidden, dilations=[dilation], pads=[before, reach - before])
    return g("Add", y, _product(g, settled(h, 1), f"leave.{place}", own.leave))


def _finished(g: _Graph, config: ConvTasNet, sample_rate: int, both_signs: bool) -> Model:
    helper, float32 = g.onnx.helper, g.onnx.TensorProto.FLOAT
    mixture = helper.make_tensor_value_info("mixture", float32, ["batch", "samples"])
    sources = helper.make_tensor_value_info("sources", float32, ["batch", len(SOURCES), "samples"])
    graph = helper.make_graph(g.nodes, "conv_tasnet", [mixture], [sources], list(g.constants.values()))
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="bayessep",
        producer_version=__version__,
    )
    about = {
        "sample_rate": str(sample_rate),
        "sources": ",".join(SOURCES),
        "mean_square": "1",
        "network": "conv-tasnet",
        "config": json.dumps(dataclasses.asdict(config) | {"precision": "float32"}),
        "both_signs": json.dumps(both_signs),
        "bayessep": __version__,
    }
    helper.set_model_props(model, about)
    return model


def check(model: Model, config: ConvTasNet, parameters: PyTree, both_signs: bool = False) -> float:
    """Largest difference between the outputs of a model and the network, relative to the output's peak if that is above 1.

    Both are run on noise: a single sample, four hops, and a receptive field (at most two seconds at 16 kHz), in batches of several
    sizes. The difference is NaN if an output is NaN, and infinite if shapes differ.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    library("onnx", "export").checker.check_model(model, full_check=True)
    runtime = library("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # this is short
    options.log_severity_level = 3  # errors only
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    exact, rng = dataclasses.replace(config, precision="float32"), np.random.default_rng(0)
    separated = jax.jit(conv_tasnet.separated, static_argnames="config")
    found = []
    for batch, n in _shapes(config):
        mixture = rng.standard_normal((batch, n), np.float32)
        with jax.default_matmul_precision("float32"):  # not the default on accelerators
            wanted = np.asarray(separated(exact, parameters, jnp.asarray(mixture)))
            if both_signs:
                wanted = (wanted - np.asarray(separated(exact, parameters, jnp.asarray(-mixture)))) / 2
        (said,) = session.run(None, {"mixture": mixture})
        if said.shape != wanted.shape:
            return float("inf")
        found.append(np.abs(said - wanted).max() / np.maximum(np.abs(wanted).max(), 1))
    return float(np.max(found))


def _shapes(config: ConvTasNet) -> Sequence[tuple[int, int]]:
    """Batch sizes and lengths of the test waveforms, with and without complete last hops."""
    return (1, 1), (3, 4 * config.hop), (2, min(2 * config.context + 1, LONGEST))


class Exported(NamedTuple):
    """Exported file."""

    path: Path
    bytes: int
    sha256: str
    sample_rate: int
    sources: tuple[str, ...]
    opset: int
    difference: float  # `check`


def write(path: str | Path, config: ConvTasNet, parameters: PyTree, sample_rate: int, both_signs: bool = False) -> Exported:
    """Write a network as an ONNX file, atomically; arguments as those of `conv_tasnet_model`.

    Raises:
        UserError: the file cannot be written, a library is missing, or the model's output differs from the network's.
    """
    path = Path(path)
    output.no_folder(path)
    with output.draft(path.parent) as part:
        model = conv_tasnet_model(config, parameters, sample_rate, both_signs)
        difference = check(model, config, parameters, both_signs)
        if not difference <= TOLERANCE:  # NaN is neither above nor below
            raise UserError(
                f"{path} is not written: it would differ from the network by {difference:.2g}, which is more than {TOLERANCE:g}; "
                "if these weights separate well here, please report it."
            )
        content = model.SerializeToString(deterministic=True)
        (part / path.name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Exported(path, len(content), digest, sample_rate, SOURCES, OPSET, difference)


def export(weights: Path | None, path: Path, terminal: Terminal) -> None:
    """Implement `bayessep export conv-tasnet`: write the separator of a file, or the one that ships, as an ONNX file.

    Raises:
        UserError: as `neural.load` and `write`; or the file would overwrite the weights, or its name does not end in .onnx.
    """
    for name in ("onnx", "onnxruntime"):
        library(name, "export")
    output.no_folder(path)
    if weights is not None:
        output.keep_inputs(path.parent, [path.name], [weights])
    if path.suffix.lower() != ".onnx":
        raise UserError(f"{path} is not an ONNX file name; let it end in .onnx.")
    begin("cpu", terminal)
    separator = neural.load("conv-tasnet", weights)
    done = write(path, separator.config, separator.parameters, separator.sample_rate, separator.both_signs)
    about = f"{done.sample_rate} Hz, {' and '.join(done.sources)}, opset {done.opset}"
    human = f"{path}: {done.bytes / 1e6:.2f} MB, {about}; differs from the network by at most {done.difference:.1e}"
    terminal.result(done._asdict() | {"path": str(path)}, human)
