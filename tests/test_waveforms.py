"""Arrays that are no waveforms are refused in a sentence, wherever they are given."""

import subprocess
import sys

import numpy as np
import pytest

from bayessep import waveforms
from bayessep.errors import UserError

RNG = np.random.default_rng(0)
SOUND = RNG.normal(0, 0.1, (1, 8000)).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (SOUND[0], r"not \(8000,\); for one channel, give mixture\[None\]"),
        (SOUND[None], r"not \(1, 1, 8000\)"),
        (SOUND.T, r"\(8000, 1\) would be 8000 channels: give mixture.T"),
        (SOUND[:0], "the mixture has no channel"),
        (np.where(np.arange(8000) == 7, np.nan, SOUND), "the mixture holds a NaN"),
        (np.where(np.arange(8000) == 7, np.inf, SOUND), "the mixture holds a NaN or infinite"),
    ],
    ids=["mono", "stack", "turned", "none", "nan", "infinite"],
)
def test_what_is_no_mixture_says_why(samples: np.ndarray, says: str) -> None:
    with pytest.raises(UserError, match=says):
        waveforms.check_mixture(samples)


def test_what_is_a_mixture_passes() -> None:
    for samples in (SOUND, np.zeros((2, 1)), np.zeros((64, 3)), np.zeros((1, 0)), SOUND.astype(np.int16)):
        waveforms.check_mixture(samples)
    waveforms.check_mono(SOUND[0], "it")
    for wrong, says in ((SOUND, r"it has shape \(samples,\), not \(1, 8000\)"), (SOUND[0] * np.nan, "it holds a NaN")):
        with pytest.raises(UserError, match=says):
            waveforms.check_mono(wrong, "it")


EVERYWHERE = """
import jax, numpy as np
from bayessep import cleaning, comparison, detection, neural, pipeline, separator_training, transcription
from bayessep.detector_data import Item
from bayessep.errors import UserError
from bayessep.models import conv_tasnet
from bayessep.preparation import Known
from bayessep.settings import Settings

x = np.random.default_rng(0).normal(0, 0.1, (1, 8000)).astype(np.float32)
y, nothing = np.where(np.arange(8000) == 7, np.nan, x), Known([x[0]], [x[0]])
tiny = conv_tasnet.ConvTasNet(filters=8, length=8, bottleneck=6, hidden=8, blocks=1, repeats=1)
network = neural.Separator("conv-tasnet", tiny, conv_tasnet.init(tiny, jax.random.key(0)).parameters, 8000)
references = {"speech": x, "music": x}
calls = {
    "separate mono": lambda: pipeline.separate(x[0], 8000, nothing),
    "separate turned": lambda: pipeline.separate(x.T, 8000, nothing),
    "separate nan": lambda: pipeline.separate(y, 8000, nothing),
    "known": lambda: pipeline.separate(x, 8000, Known([x], [x[0]])),
    "known nan": lambda: pipeline.separate(x, 8000, Known([x[0]], [y[0]])),
    "network mono": lambda: neural.separate(x[0], 8000, network),
    "network turned": lambda: neural.separate(x.T, 8000, network),
    "network nan": lambda: neural.separate(y, 8000, network),
    "clean nan": lambda: cleaning.clean(y, 8000, None),
    "compare mono": lambda: comparison.compare(x[0], 8000, nothing),
    "compare references": lambda: comparison.compare(x, 8000, nothing, references=references),
    "detect": lambda: detection.detect_samples(x),
    "transcribe": lambda: transcription.transcribe_samples(x),
    "item": lambda: separator_training.stretch([Item("a.wav", "a", x)], 100, np.random.default_rng(0)),
}
for name, call in calls.items():
    try:
        call()
    except UserError as error:
        print(name, "|", error)
"""


def test_it_is_looked_at_everywhere() -> None:
    """In a process of its own: here, annotations are checked before anything else is."""
    ran = subprocess.run([sys.executable, "-c", EVERYWHERE], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    said = dict(line.split(" | ") for line in ran.stdout.splitlines())
    for name, says in {
        "separate mono": "give mixture[None]", "separate turned": "give mixture.T", "separate nan": "the mixture holds a NaN",
        "known": "learned from has shape (samples,), not (1, 8000)", "known nan": "learned from holds a NaN",
        "network mono": "give mixture[None]", "network turned": "give mixture.T", "network nan": "the recording holds a NaN",
        "clean nan": "the recording holds a NaN", "compare mono": "give mixture[None]",
        "compare references": "the speech reference has shape (samples,)", "detect": "the waveform has shape (samples,)",
        "transcribe": "the waveform has shape (samples,)", "item": "a.wav has shape (samples,)",
    }.items():  # fmt: skip
        assert says in said.pop(name), name
    assert not said
