"""Tests of `bayessep.devices`: freed memory that stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

# A program whose result takes 100 MB, called again and again; and the pages of memory that it had to be given in its last call.
PROGRAM = """
import resource

import jax
import jax.numpy as jnp

from bayessep.devices import keep_memory

kept = keep_memory() if {asked} else False
run = jax.jit(lambda x: x[::-1] + 1)
x = jnp.ones(25_000_000)
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run(x).block_until_ready()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(asked: bool, **settings: str) -> tuple[str, int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    environment |= {"JAX_PLATFORMS": "cpu"} | settings
    program = PROGRAM.format(asked=asked)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    kept, pages = done.stdout.split()
    return kept, int(pages)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_kept_where_that_is_asked_for_and_nothing_else_was_chosen():
    kept, pages = faults(asked=True)
    assert kept == "True"
    given_back = faults(asked=False)[1]
    assert pages < given_back / 4
    kept, pages = faults(asked=True, MALLOC_ARENA_TEST="8")
    assert kept == "False"
    assert pages > given_back / 4
