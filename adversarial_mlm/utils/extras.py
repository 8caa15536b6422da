"""Packages that only some functions need; an extra of this package installs them."""

import importlib
from types import ModuleType

from adversarial_mlm.utils.errors import MissingPackageError


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of a package that not everybody has.

    Args:
        module (`str`): Its full name, such as `scipy.stats`.
        extra (`str`): The extra of this package that installs it.
        purpose (`str`): What needs it; the message begins with it.

    Raises:
        MissingPackageError: If the package is not installed.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # the package is there, and something that it needs itself is missing
        raise MissingPackageError(
            f"{purpose} needs the package {package}, which is not installed: pip install 'adversarial-mlm[{extra}]'"
        ) from error
    return importlib.import_module(module)
