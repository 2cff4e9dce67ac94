"""Import of optional libraries on demand; the error for a missing one names the extra that installs it."""

import importlib
from typing import Any

from bayessep.errors import UserError


def library(module: str, extra: str, *, package: str | None = None) -> Any:
    """Import a module that belongs to an extra of this project.

    Args:
        module: its dotted name.
        extra: the extra of pyproject.toml that installs it.
        package: name of the package, if it differs from that of the module.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{package or module} is not installed; pip install 'bayessep[{extra}]' installs it.") from None
