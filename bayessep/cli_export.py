"""The verb export, as `bayessep.cli` has it. What it does is in `export`."""

from pathlib import Path
from typing import Annotated

import typer

from bayessep.options import Json, Quiet
from bayessep.terminal import Terminal, Verb

exports = typer.Typer(no_args_is_help=True, help="Write a network as a file that other programs run.")


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
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
        Path, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="The file to write, such as separator.onnx.")
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="A separator that bayessep train conv-tasnet has made; else the installed one."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a separator as an ONNX file (extra export).

    Of “mixture” (batch, samples) it makes “sources” (batch, 2, samples): speech and music, of waveforms of any length at the
    sample rate that is in its metadata, best scaled to a mean square of 1. It says what separate says of a window, of weights that
    hear a mixture upside down, too, as the installed ones do, the mean of both; but sources that need not sum to the mixture are
    not scaled to it. It is compared with the network before it is written, and is not written if they differ.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import export

    export.export(weights, output, terminal)
