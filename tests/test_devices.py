"""Tests of `bayessep.devices`: freed memory that stays with the process."""

import inspect
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from bayessep import devices, network_commands, separator_commands, transcript_commands
from bayessep.terminal import Terminal
from tests.commandline import Caller

# A program whose result takes 100 MB, called again and again; and the pages of memory that a call had to be given: the fewest of
# the last three, as the system may have other reasons to give pages.
PROGRAM = """
import resource

import jax
import jax.numpy as jnp

from bayessep.devices import keep_memory

kept = keep_memory() if {asked} else False
run = jax.jit(lambda x: x[::-1] + 1)
x, counts = jnp.ones(25_000_000), []
for _ in range(7):
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    run(x).block_until_ready()
counts = [after - before for before, after in zip(counts, counts[1:])]
print(kept, min(counts[-3:]))
"""


def faults(asked: bool, **settings: str) -> tuple[str, int]:
    others = ("MALLOC_", "GLIBC_", "JAX_", "XLA_", "BAYESSEP_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    environment |= {"JAX_PLATFORMS": "cpu"} | settings
    program = PROGRAM.format(asked=asked)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    kept, pages = done.stdout.split()
    return kept, int(pages)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_kept_where_that_is_asked_for_and_nothing_else_was_chosen():
    given_back = faults(asked=False)[1]
    if given_back < 5000:
        pytest.skip("this system gives memory in huge pages, few of which make 100 MB")
    kept, pages = faults(asked=True)
    assert kept == "True"
    assert pages < given_back / 4
    kept, pages = faults(asked=True, MALLOC_ARENA_TEST="8")
    assert kept == "False"
    assert pages > given_back / 4


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "JAX_CPU_ENABLE_ASYNC_DISPATCH", "BAYESSEP_KEEP_MEMORY"])
def test_settings_of_the_user_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda _: pytest.fail("glibc was told"))
    monkeypatch.setattr(jax.config, "update", lambda *_: pytest.fail("JAX was told"))
    monkeypatch.delenv("BAYESSEP_KEEP_MEMORY")
    monkeypatch.setenv(name, "0")
    assert devices.keep_memory() is False


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda"])
def test_trainings_keep_memory_unless_a_gpu_trains(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    asked: list[str] = []
    monkeypatch.setattr(devices, "keep_memory", lambda: asked.append("memory"))
    monkeypatch.setattr(devices, "begin", lambda name, _: asked.append(name) or name)
    assert devices.begin_training(device, Terminal(quiet=True)) == device
    assert asked == ([device] if device == "cuda" else ["memory", device])


def test_every_verb_that_trains_begins_as_a_training() -> None:
    """`begin` alone would give memory back after each step."""
    for module, verbs in ((separator_commands, 3), (network_commands, 1), (transcript_commands, 1)):
        source = inspect.getsource(module)
        trainings = [body for body in source.split("\ndef ") if "train.train(" in body or "unmatched.learn(" in body]
        assert len(trainings) == verbs
        assert all("begin_together(" in body or "begin_training(" in body for body in trainings)


def test_trainings_of_paper_001_keep_memory(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other experiments compute much besides, in many sizes."""
    asked: list[str] = []
    monkeypatch.setattr(devices, "keep_memory", lambda: asked.append("memory"))
    for experiment, expected in (("simpson2015", []), ("woo2020", ["memory"])):
        call.refused("reproduce", experiment, "--data", tmp_path, "-o", tmp_path / "out", "--finished")
        assert asked == expected
