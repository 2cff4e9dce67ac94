"""Self-test of an installation: versions, devices, and a few checks."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayessep import __version__, devices, pipeline
from bayessep.preparation import Known
from bayessep.settings import Settings
from bayessep.stft import istft, stft, stft_for_rate

_NEEDED = (
    "jax", "jaxlib", "jaxtyping", "flax", "numpyro", "optax", "orbax-checkpoint", "arviz", "numpy", "scipy", "soundfile", "soxr",
    "matplotlib", "rich", "safetensors", "tensorboardX", "typer",
)  # fmt: skip
_EXTRAS = {
    "containers": ("av",),
    "asr": ("pocketsphinx", "jiwer", "sentencepiece"),
    "train": ("librosa", "pedalboard"),
    "baselines": ("librosa", "scikit-learn"),
    "detection": ("pyannote.metrics", "pyannote.core"),
    "bss4": ("museval",),
    "export": ("onnx", "onnxruntime"),
}
"""Optional dependencies in pyproject.toml, by extra."""


def examine(device: str) -> dict[str, Any]:
    """Return versions, devices, extras and the results of a few seconds of checks as a document; ``ok`` says if all passed."""
    packages = {name: _version(name) for name in _NEEDED}
    checks = [_check("installation", lambda: _nothing_missing(packages)), *(_check(*check) for check in _CHECKS)]
    cache = devices.cache_folder()
    return {
        "ok": all(check["ok"] for check in checks),
        "bayessep": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": devices.cores(),
        "device": device,
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "packages": packages,
        "extras": {extra: _versions(packages) for extra, packages in _EXTRAS.items()},
        "cache": None if cache is None else str(cache),
        "checks": checks,
    }


def told(document: dict[str, Any]) -> str:
    """Render the document as lines for people."""
    lines = [
        f"bayessep {document['bayessep']}, Python {document['python']}, {document['system']}",
        f"device in use: {document['device']}; devices found: {', '.join(document['devices'])}; {document['cores']} cores",
        "packages: " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in document["packages"].items()),
    ]
    lines += [
        f"extra [{extra}]: {version or f'not installed (pip install bayessep[{extra}])'}"
        for extra, version in document["extras"].items()
    ]
    cached = f"cached in {document['cache']}" if document["cache"] else "not cached"
    lines.append(f"compiled programs are {cached}")
    for check in document["checks"]:
        lines.append(f"{'ok' if check['ok'] else 'FAILED':<7}{check['name']}: {check['detail']} ({check['seconds']:.1f} s)")
    return "\n".join([*lines, "all checks passed" if document["ok"] else "some checks failed: see FAILED above"])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions(packages: Sequence[str]) -> str | None:
    """Return the versions of an extra's packages, None unless all are installed."""
    found = {package: _version(package) for package in packages}
    return None if None in found.values() else ", ".join(f"{package} {version}" for package, version in found.items())


def _check(name: str, run: Callable[[], tuple[bool, str]]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        ok, detail = run()
    except Exception as error:  # any failure is a finding
        ok, detail = False, f"{type(error).__name__}: {error}"
    return {"name": name, "ok": bool(ok), "detail": detail, "seconds": time.perf_counter() - started}


def _nothing_missing(packages: dict[str, str | None]) -> tuple[bool, str]:
    missing = [name for name, version in packages.items() if version is None]
    return not missing, f"missing: {', '.join(missing)}" if missing else "complete"


def _sound(seconds: float, sample_rate: int) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(round(seconds * sample_rate))
    return (0.1 * noise).astype(np.float32)


def _transform() -> tuple[bool, str]:
    """Check that the inverse STFT restores the signal."""
    x = _sound(1.0, 16000)
    window = stft_for_rate(16000)
    error = float(np.abs(np.asarray(istft(stft(jnp.asarray(x), window), window, len(x))) - x).max())
    return error < 1e-5, f"error {error:.1e}"


def _inference() -> tuple[bool, str]:
    """Check that the bound never falls, and that the stems sum to the mixture."""
    x, rate = _sound(2.0, 8000), 8000
    settings = Settings(method="unsupervised", bases=3, sweeps=20, tolerance=1e-9, chain=False, complete=False)
    result = pipeline.separate(x[None], rate, Known(music=(x[:4000],)), settings)
    fall = float(np.maximum(-np.diff(result.trace), 0).max() / np.abs(result.trace).max())
    error = float(np.abs(result.speech + result.music - x).max())
    detail = f"{result.steps} sweeps, largest fall of the bound {fall:.0e}; sum of the stems off by {error:.0e}"
    return fall < 1e-5 and error < 1e-6, detail


_CHECKS: tuple[tuple[str, Callable[[], tuple[bool, str]]], ...] = (("STFT", _transform), ("inference", _inference))
