"""The command-line interface of `export`, implemented in `bayessep.export`."""

from pathlib import Path
from typing import Annotated

import typer

from bayessep.options import Json, Quiet
from bayessep.terminal import Terminal, Verb

exports = typer.Typer(no_args_is_help=True, help="Export a network to a file that other programs can run.")


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.add_typer(exports, name="export")


@exports.command(
    "conv-tasnet",
    cls=Verb,
    epilog="""**Examples**

bayessep export conv-tasnet -o separator.onnx

bayessep export conv-tasnet --weights trained/weights.safetensors -o separator.onnx""",
)
def conv_tasnet(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="File to write, such as separator.onnx.")
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="Weights file from bayessep train conv-tasnet; by default the installed one."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a separator as an ONNX file (extra export).

    The model maps “mixture” (batch, samples) to “sources” (batch, 2, samples), speech and music, for waveforms of any length at the
    sample rate in its metadata, best scaled to a mean square of 1. It computes what separate computes for one window; for weights
    that also process the mixture with inverted sign, as the installed ones do, that is the mean of both. Unlike separate, it does
    not scale sources to the mixture where they need not sum to it, nor leave out silence or a constant offset. It is only written
    if its output agrees with the network's.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import export

    export.export(weights, output, terminal)
