"""Run every notebook of this folder from top to bottom.

    python notebooks/execute.py           and keep the outputs in the files
    python notebooks/execute.py --check   and only see that they run

Stops at the first cell that fails, prints its traceback and exits with code 1.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).resolve().parent
SECONDS_PER_NOTEBOOK = 900
TOGETHER = 2
"""Notebooks at a time: most of what they do is compiling, which one core does."""
FLAGS = "--xla_backend_optimization_level=1"
"""Of XLA, where the caller has set none: a program that runs for a minute is not worth more compiling."""


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, run in its own folder by the Python that runs this.

    Raises what nbclient raises when a cell fails, the kernel dies or the time is over.
    """
    notebook = nbformat.read(path, as_version=4)
    # The limit of nbclient is for a cell; each cell gets what is left for the whole notebook.
    deadline = time.monotonic() + SECONDS_PER_NOTEBOOK
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout_func=lambda cell: max(1, int(deadline - time.monotonic())),
        # Times would make every run another file.
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    return notebook


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Replace the file in one step."""
    temporary = path.with_suffix(".ipynb.partial")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)


def timed(path: Path) -> tuple[nbformat.NotebookNode | None, float, str]:
    """The notebook with fresh outputs, how long it took, and what went wrong."""
    start = time.monotonic()
    try:
        found, failure = execute(path), ""
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        found, failure = None, str(error)
    return found, time.monotonic() - start, failure


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every notebook of this folder.")
    parser.add_argument("--check", action="store_true", help="leave the files as they are")
    check = parser.parse_args().check

    os.environ.setdefault("XLA_FLAGS", FLAGS)  # kernels inherit it
    paths = sorted(FOLDER.glob("*.ipynb"), reverse=True)  # the last ones train networks, and take longest
    if not paths:
        print("no notebooks")
    with ProcessPoolExecutor(min(TOGETHER, os.cpu_count() or 1)) as processes:
        running = {processes.submit(timed, path): path for path in paths}
        for one in as_completed(running):
            path, (notebook, seconds, failure) = running[one], one.result()
            if notebook is None:
                processes.shutdown(wait=False, cancel_futures=True)
                print(f"{path.name}: failed after {seconds:.0f} s\n{failure}", file=sys.stderr)
                return 1
            print(f"{path.name}: {seconds:.0f} s", flush=True)
            if not check:
                write(notebook, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
