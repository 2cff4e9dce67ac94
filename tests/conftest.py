"""What every test runs under: checked shapes, strict arrays, one thread a process."""

import os
from importlib.metadata import version
from pathlib import Path

# All of this must be said before jax, numba and matplotlib are imported. The tests never need an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("BAYESSEP_KEEP_MEMORY", "off")  # it would hold for all tests of a process that trains once
# Tests compile far more than they compute, so the compiler is told not to try hard. It ends the process at a flag that it
# does not know, hence the versions.
_XLA = ["--xla_cpu_multi_thread_eigen=false"]
if version("jaxlib").startswith(("0.10.", "0.11.", "0.12.")):
    _XLA += ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    _XLA += ["--xla_cpu_parallel_codegen_split_count=1"]
if version("jaxlib").startswith("0.10."):
    _XLA += ["--xla_cpu_use_fusion_emitters=false"]
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is one process for each core already; threads of their own would only get in each other's way.
    os.environ.setdefault("XLA_FLAGS", " ".join(_XLA))
    for _library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
    # Of two processes that write what numba has compiled into one place, one may read what is half written, and crash.
    _own = Path(".pytest_cache", "numba", os.environ["PYTEST_XDIST_WORKER"]).absolute()
    os.environ.setdefault("NUMBA_CACHE_DIR", str(_own))

from jaxtyping import install_import_hook  # noqa: E402

# Annotations such as Float[Array, "T F"] are checked at every call, in whatever is imported from here on.
install_import_hook("bayessep", "beartype.beartype")

from collections.abc import Iterator  # noqa: E402

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

from tests.commandline import Caller, Files, material  # noqa: E402

# The first call of a jitted function compiles, so time per example says nothing. Failures must repeat.
hypothesis.settings.register_profile("bayessep", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("bayessep")


@pytest.fixture(autouse=True)
def strict_arrays(request: pytest.FixtureRequest) -> Iterator[None]:
    """No silent promotion: an int that becomes a float, or a (F,) that becomes a (T, F), is an error.

    Oracles and third parties that need jax's ordinary rules carry the mark `loose_arrays`.
    """
    if request.node.get_closest_marker("loose_arrays"):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Compiled programs of one file are of little use to the next, and all of them together take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 by default during one test, for reference checks."""
    with jax.enable_x64(True):
        yield


# The command line, called in this process, and recordings to call it on.


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Caller:
    return Caller(capsys, tmp_path)


@pytest.fixture
def given(tmp_path: Path) -> Files:
    return material(tmp_path)
