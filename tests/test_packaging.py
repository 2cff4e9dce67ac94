"""What a user installs: the wheel, built from a copy of the sources and run from an empty folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import bayessep

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("bayessep", "models", "inference", "pyproject.toml", "README.md", "LICENSE")


def python(*arguments: str, folder: Path, path: str = "") -> str:
    """Run this interpreter in `folder` with nothing but `path` added to what is installed; its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path:
        environment["PYTHONPATH"] = path
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel. The build needs no network: setuptools comes from the environment."""
    if int(metadata.version("setuptools").split(".")[0]) < 70:
        pytest.importorskip("wheel", reason="setuptools before 70.1 needs the package wheel to build one")
    folder = tmp_path_factory.mktemp("packaging")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / "src" / name)
    python(
        *("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"),
        *("--wheel-dir", str(folder / "dist"), str(folder / "src")),
        folder=folder,
    )
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_module_once(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {f"bayessep/{path.name}" for path in (ROOT / "bayessep").glob("*.py")} | {"bayessep/py.typed"}
    wanted |= {f"bayessep/weights/{path.name}" for path in (ROOT / "bayessep" / "weights").iterdir()}
    for folder in ("models", "inference"):
        wanted |= {f"bayessep/{folder}/{path.name}" for path in (ROOT / folder).glob("*.py")}
    assert wanted <= held
    assert {name.split("/")[0] for name in held} == {"bayessep"}
    assert [name for name in held if "test" in name or "__pycache__" in name] == []


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (described,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        (doors,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        text = archive.read(described).decode()
        assert "bayessep = bayessep.cli:main" in archive.read(doors).decode()
        assert any(name.endswith("LICENSE") for name in archive.namelist())
    assert "License: Apache-2.0" in text or "License-Expression: Apache-2.0" in text
    assert "Requires-Python: >=3.11" in text


def test_the_wheel_runs_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """Unpacked outside the checkout and found first, so that no file of the checkout can help."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    found = python(
        "-c",
        "import bayessep.models as m, bayessep.inference as i; print(m.__file__, i.__file__)",
        folder=tmp_path / "empty",
        path=str(tmp_path / "site"),
    )
    assert all(place.startswith(str(tmp_path / "site")) for place in found.split()), found
    said = python("-m", "bayessep", "--version", folder=tmp_path / "empty", path=str(tmp_path / "site"))
    assert bayessep.__version__ in said


def test_the_lock_names_no_place() -> None:
    """Hashes say what is installed; from where is the user's choice."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith(" ")]
    assert [line for line in lines if "/" in line or "index" in line or "find-links" in line] == []
    assert [pin for pin in pins if "==" not in pin] == []
    assert sum(line.strip().startswith("--hash=sha256:") for line in lines) >= len(pins)
