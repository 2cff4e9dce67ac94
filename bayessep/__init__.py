"""Separate speech, music and singing with generative models, and detect where each of them occurs."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# A checkout keeps `models` and `inference` beside this package, a wheel keeps them inside it. Where they are not inside,
# the parent folder is searched too, so that `bayessep.models` means the same in both.
if __name__ == "bayessep" and not (_Path(__file__).parent / "models").is_dir():
    __path__.append(str(_Path(__file__).parent.parent))
