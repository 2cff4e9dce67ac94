"""The rules of the house, read from the source: who may import whom, and what lives in one place only.

Every rule is a function from one parsed file to its complaints, so each can be shown to catch an offender.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 450

# The rooms of bayessep that know of nothing but arrays: what models and inference may build on.
LEAVES = {"stft", "features", "medians", "gamma", "errors"}
ALLOWED_IN_MODELS = LEAVES | {"models"}
ALLOWED_IN_INFERENCE = {"gamma", "errors", "inference"}
LIBRARIES_OF_INFERENCE = {
    "arviz", "arviz_base", "jax", "jaxtyping", "numpy", "numpyro", "optax", "scipy", "xarray",
}  # fmt: skip

# The library on the left is imported by the files on the right and by no other.
ONE_PLACE = {
    "matplotlib": tuple(f"bayessep/plots{what}.py" for what in ("", "_detection", "_karaoke", "_levels")),
    "soundfile": ("bayessep/audio.py",),
    "soxr": ("bayessep/resampling.py",),
    "av": ("bayessep/audio.py",),
}
TRANSFORMS = {
    "fft", "fft2", "fftn", "rfft", "rfft2", "rfftn", "hfft",
    "ifft", "ifft2", "ifftn", "irfft", "irfft2", "irfftn", "ihfft",
    "stft", "istft", "ShortTimeFFT", "spectrogram", "periodogram", "welch", "csd", "coherence",
}  # fmt: skip
LIBRARIES_WITH_TRANSFORMS = {"jax", "librosa", "numpy", "pyfftw", "scipy", "torch"}
IMPORTERS = {"importlib.import_module", "import_module", "__import__"}
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NETWORK = {
    "aiohttp", "ftplib", "gdown", "http", "httpx", "huggingface_hub", "pooch", "requests", "smtplib",
    "socket", "urllib.request", "urllib3", "websockets",
}  # fmt: skip


class Source(NamedTuple):
    """One file: its place in the checkout, its text, and the dotted names that it imports or reaches."""

    place: str
    text: str
    imports: set[str]
    reached: set[str]

    @property
    def folder(self) -> str:
        return self.place.split("/")[0]

    @property
    def room(self) -> str:
        """The name under which other rooms import this one: stft, models, inference ..."""
        return Path(self.place).stem if self.folder == "bayessep" else self.folder


def read(place: str, text: str) -> Source:
    """Parse a file. `from a import b` counts as a.b, and jnp.fft.rfft as jax.numpy.fft.rfft."""
    tree = ast.parse(text)
    package = "bayessep" if place.startswith("bayessep/") else f"bayessep.{place.split('/')[0]}"
    imports: set[str] = set()
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports.add(alias.name)
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                imports.add(f"{module}.{alias.name}")
                names[alias.asname or alias.name] = f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and _dotted(node.func, {}) in IMPORTERS:
            imports |= {str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant)}
    reached = {name for node in ast.walk(tree) if (name := _dotted(node, names))}
    return Source(place, text, imports, reached | imports)


def _dotted(node: ast.AST, names: dict[str, str]) -> str | None:
    """The dotted name of a chain such as np.fft.rfft, its first part spelled out through `names`."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := _dotted(node.value, names)):
        return f"{base}.{node.attr}"
    return None


def _starts_with(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def _rooms(source: Source) -> set[str]:
    """The rooms of bayessep that a file enters; the second part of bayessep.stft.Stft."""
    parts = [name.split(".") for name in source.imports]
    return {part[1] if len(part) > 1 else "(all of bayessep)" for part in parts if part[0] == "bayessep"}


# --- the rules ------------------------------------------------------------------------------------


def rooms_that_may_be_entered(source: Source) -> Iterator[str]:
    """models and inference do not know of each other, and leaves know only leaves."""
    if source.folder == "models":
        allowed = ALLOWED_IN_MODELS
    elif source.folder == "inference":
        allowed = ALLOWED_IN_INFERENCE
    elif source.room in LEAVES:
        allowed = LEAVES
    else:
        return
    for room in sorted(_rooms(source) - allowed):
        yield f"{source.room} must not import {room}"


def libraries_of_inference(source: Source) -> Iterator[str]:
    """An algorithm needs arrays, optimisers and diagnostics, and nothing that knows about sound."""
    if source.folder != "inference":
        return
    libraries = {name.split(".")[0] for name in source.imports} - {"bayessep"}
    for library in sorted(libraries - LIBRARIES_OF_INFERENCE - sys.stdlib_module_names):
        yield f"inference must not import {library}"


def one_name_for_each_class(source: Source) -> Iterator[str]:
    """`import models` would load a second copy of everything in bayessep.models."""
    for name in sorted(source.imports):
        if any(_starts_with(name, copy) for copy in ("models", "inference", "bayessep.bayessep")):
            yield f"{name} is a second copy: bayessep.models, bayessep.inference, bayessep"


def one_place_for_each_library(source: Source) -> Iterator[str]:
    for library, places in ONE_PLACE.items():
        if source.place not in places and any(_starts_with(name, library) for name in source.imports):
            yield f"{library} is imported in {' and '.join(places)} only"


def one_place_for_fft(source: Source) -> Iterator[str]:
    """Fast convolution and correlation through scipy.signal are no analysis, and free to all."""
    if source.place == "bayessep/stft.py":
        return
    for name in sorted(source.reached):
        library, *rest = name.split(".")
        if library in LIBRARIES_WITH_TRANSFORMS and TRANSFORMS.intersection(rest):
            yield f"{name} belongs in bayessep/stft.py"


def no_pickle(source: Source) -> Iterator[str]:
    """A pickle runs code when it is read."""
    for name in sorted(source.imports):
        if any(_starts_with(name, pickle) for pickle in PICKLES):
            yield f"{name} is a pickle"
    for node in ast.walk(ast.parse(source.text)):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield "allow_pickle must be False"


def no_network(source: Source) -> Iterator[str]:
    for name in sorted(source.imports):
        if any(_starts_with(name, library) for library in NETWORK):
            yield f"{name} reaches for the network"


def one_room_a_file(source: Source) -> Iterator[str]:
    if (lines := len(source.text.splitlines())) > MAX_LINES:
        yield f"{lines} lines: one room or two?"


RULES: tuple[Callable[[Source], Iterator[str]], ...] = (
    rooms_that_may_be_entered,
    libraries_of_inference,
    one_name_for_each_class,
    one_place_for_each_library,
    one_place_for_fft,
    no_pickle,
    no_network,
    one_room_a_file,
)


# --- the tests ------------------------------------------------------------------------------------


def _files() -> list[str]:
    paths = [path for folder in ("bayessep", "models", "inference") for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


@pytest.mark.parametrize("place", _files())
def test_house_rules(place: str) -> None:
    source = read(place, (ROOT / place).read_text(encoding="utf-8"))
    assert [complaint for rule in RULES for complaint in rule(source)] == []


def test_folders_are_flat() -> None:
    """The package list of pyproject.toml names three folders; a file below them would miss the wheel."""
    assert [place for place in _files() if place.count("/") > 1] == []


OFFENDERS = [
    (rooms_that_may_be_entered, "models/a.py", "from bayessep.inference import vi"),
    (rooms_that_may_be_entered, "models/a.py", "from bayessep import inference"),
    (rooms_that_may_be_entered, "models/a.py", "from ..inference import vi"),
    (rooms_that_may_be_entered, "models/a.py", "def f():\n    import bayessep.audio"),
    (rooms_that_may_be_entered, "models/a.py", "import bayessep"),
    (rooms_that_may_be_entered, "models/a.py", "importlib.import_module('bayessep.inference.vi')"),
    (rooms_that_may_be_entered, "inference/a.py", "import bayessep.models.mixture as m"),
    (rooms_that_may_be_entered, "inference/a.py", "from bayessep import stft"),
    (rooms_that_may_be_entered, "bayessep/stft.py", "from bayessep.models import mixture"),
    (rooms_that_may_be_entered, "bayessep/features.py", "from . import data"),
    (libraries_of_inference, "inference/a.py", "import librosa"),
    (libraries_of_inference, "inference/a.py", "from flax import nnx"),
    (one_name_for_each_class, "bayessep/pipeline.py", "import models.mixture"),
    (one_name_for_each_class, "models/a.py", "from inference import vi"),
    (one_name_for_each_class, "bayessep/cli.py", "from bayessep.bayessep import stft"),
    (one_place_for_each_library, "bayessep/cli.py", "def f():\n    from matplotlib import pyplot"),
    (one_place_for_each_library, "bayessep/data.py", "import soundfile as sf"),
    (one_place_for_each_library, "models/a.py", "import soxr"),
    (one_place_for_each_library, "bayessep/cli.py", "import av.container"),
    (one_place_for_fft, "models/a.py", "import jax.numpy as jnp\njnp.fft.rfft(x)"),
    (one_place_for_fft, "bayessep/features.py", "from numpy.fft import rfft as transform"),
    (one_place_for_fft, "bayessep/features.py", "import scipy\nscipy.signal.stft(x)"),
    (one_place_for_fft, "bayessep/metrics.py", "from scipy import fft"),
    (one_place_for_fft, "bayessep/metrics.py", "import jax\njax.lax.fft(x)"),
    (no_pickle, "bayessep/train.py", "import pickle"),
    (no_pickle, "bayessep/train.py", "from joblib import dump"),
    (no_pickle, "bayessep/train.py", "np.load(path, allow_pickle=True)"),
    (no_network, "bayessep/data.py", "import urllib.request"),
    (no_network, "bayessep/data.py", "from urllib import request"),
    (no_network, "bayessep/data.py", "import requests"),
    (one_room_a_file, "models/a.py", "x = 1\n" * (MAX_LINES + 1)),
]


@pytest.mark.parametrize(("rule", "place", "text"), OFFENDERS)
def test_each_rule_catches_offenders(rule: Callable[[Source], Iterator[str]], place: str, text: str) -> None:
    assert rule in RULES
    assert list(rule(read(place, text)))


ALLOWED = [
    ("models/a.py", "from bayessep.stft import Stft\nfrom bayessep.models import b\nimport numpyro"),
    ("models/a.py", "from . import b\nfrom .b import c\nfrom bayessep import gamma, features"),
    ("inference/a.py", "import jax.numpy as jnp\nimport math\nfrom bayessep.gamma import Gamma"),
    ("inference/a.py", "from .fit import Fit\nfrom bayessep.inference import fit"),
    ("bayessep/pipeline.py", "from bayessep.models import mixture\nfrom bayessep.inference import vi"),
    ("bayessep/plots.py", "from matplotlib import pyplot"),
    ("bayessep/plots_detection.py", "from matplotlib.figure import Figure"),
    ("bayessep/audio.py", "import soundfile, av"),
    ("bayessep/stft.py", "import jax.numpy as jnp\njnp.fft.rfft(x)"),
    ("bayessep/features.py", "from bayessep import stft\nstft.stft(x)"),
    ("bayessep/metrics.py", "import scipy.signal as s\ns.fftconvolve(a, b)\ns.correlate(a, b)"),
    ("bayessep/data.py", "import urllib.parse\nimport numpy as np\nnp.load(path, allow_pickle=False)"),
]


@pytest.mark.parametrize(("place", "text"), ALLOWED)
def test_rules_leave_the_rest_alone(place: str, text: str) -> None:
    assert [complaint for rule in RULES for complaint in rule(read(place, text))] == []
