"""The device that computes, compiled programs, which are kept on disk and dropped when there are too many, and freed memory."""

import contextlib
import ctypes
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax

from bayessep.errors import UserError
from bayessep.terminal import Terminal


def begin(device: str, terminal: Terminal) -> str:
    """Set up the compilation cache and the device before the first computation; return the name of the device."""
    use_cache()
    return use_device(device, terminal)


def begin_training(device: str, terminal: Terminal) -> str:
    """As `begin`, for a process that trains: it keeps freed memory, unless the device is a GPU."""
    if device != "cuda":
        keep_memory()
    return begin(device, terminal)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_device(name: str, terminal: Terminal) -> str:
    """Select ``cpu``, ``cuda`` or JAX's preferred device (``auto``); announce it and return its name.

    Raises:
        UserError: JAX finds no such device.
    """
    if name == "cuda":
        try:
            device = jax.devices("cuda")[0]
        except (RuntimeError, AssertionError):
            problem = "--device cuda: JAX finds no CUDA device here"
            raise UserError(f"{problem}; install jax[cuda12] on a machine with one, or use --device cpu.") from None
    elif name == "cpu":
        jax.config.update("jax_platforms", "cpu")  # leaves accelerators alone, unless one is in use already
        device = _first_device("cpu")
    else:
        device = _first_device()
    if device.platform != jax.devices()[0].platform:
        jax.config.update("jax_default_device", device)
    described = device.platform if device.device_kind == device.platform else f"{device.platform} ({device.device_kind})"
    terminal.note(f"device: {described}")
    return described


def _first_device(platform: str | None = None) -> Any:
    """Return the first device of a platform, by default of the one that JAX prefers."""
    try:
        return jax.devices(platform)[0]
    except (RuntimeError, AssertionError) as error:  # JAX_PLATFORMS names a platform that is not available
        asked = os.environ.get("JAX_PLATFORMS") or "what JAX looks for"
        reason = f"JAX finds no device ({asked}: {str(error) or 'none there'})"
        raise UserError(f"{reason}; unset JAX_PLATFORMS, or use --device cpu.") from None


def cache_folder() -> Path | None:
    """Return the folder of the compilation cache; None where the user has turned it off or the folder is not writable."""
    if _is_off("BAYESSEP_CACHE"):
        return None
    base = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
        folder = (Path(base) if base else Path.home() / ".cache") / "bayessep" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    return None


def use_cache() -> None:
    """Turn on JAX's persistent compilation cache, if there is a folder for it."""
    folder = cache_folder()
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Cache all programs: the many small ones take longer to compile than to read, and hardly any space.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


# Options of mallopt (malloc.h) and their values: no blocks outside the heap, and nothing at its end given back.
_NO_MAPPED_BLOCKS, _NO_TRIMMING = (-4, 0), (-1, -1)
_OTHER_SETTINGS = ("GLIBC_TUNABLES", "JAX_CPU_ENABLE_ASYNC_DISPATCH")  # a user who gives one has chosen


def keep_memory() -> bool:
    """Ask glibc to keep freed memory for the next arrays; call it before JAX computes anything. Return whether it was asked.

    By default, glibc gives every large block back to the system, so that each call of a large program gets its work arrays page by
    page anew, which takes a good part of the time of a training step. With this, the memory of the process does not shrink before
    it ends, and grows further where sizes vary; so trainings ask for it, and separation does not. Programs on a single CPU device
    then run in the thread that calls them, since only the heap of the main thread grows without limit: the next batch is not drawn
    meanwhile.

    Left alone are systems without glibc; settings of the user in ``MALLOC_…``, ``GLIBC_TUNABLES`` or
    ``JAX_CPU_ENABLE_ASYNC_DISPATCH``; and everything where ``BAYESSEP_KEEP_MEMORY`` is ``off``.
    """
    chosen = any(name.startswith("MALLOC_") or name in _OTHER_SETTINGS for name in os.environ)
    if chosen or _is_off("BAYESSEP_KEEP_MEMORY") or platform.libc_ver()[0] != "glibc":
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(*option) == 1 for option in (_NO_MAPPED_BLOCKS, _NO_TRIMMING)])


def _is_off(variable: str) -> bool:
    """Tell whether an environment variable turns something off."""
    return os.environ.get(variable, "").lower() in ("off", "0", "no", "false")


MOST_MAPPINGS = 20_000
"""Memory mappings of the process above which compiled programs are dropped. Linux allows 65,530 (vm.max_map_count)."""


def forget_programs() -> None:
    """Clear JAX's compiled programs if there are very many; call it between recordings.

    Recordings of different lengths need programs of their own, each of which takes some memory mappings: sooner or later the next
    compilation would crash the process. Systems without /proc/self/maps do not limit mappings.
    """
    with contextlib.suppress(OSError):
        with open("/proc/self/maps", "rb") as mappings:
            if sum(1 for _ in mappings) <= MOST_MAPPINGS:
                return
        jax.clear_caches()
