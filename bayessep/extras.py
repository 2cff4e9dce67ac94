"""Libraries that only some need: imported when they are asked for, and named, with their extra, where they are not there."""

import importlib
from typing import Any

from bayessep.errors import UserError


def library(module: str, extra: str, *, package: str | None = None) -> Any:
    """Import a module of an extra of this project.

    Args:
        module: its dotted name.
        extra: the extra of pyproject.toml that brings it.
        package: the name to install, where it is another one.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{package or module} is not installed; pip install 'bayessep[{extra}]' brings it.") from None
