"""Optional packages: only some functions need them, and an extra of this package installs them."""

import importlib
from types import ModuleType

from adversarial_mlm.utils.errors import MissingPackageError


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module (`str`): Full name of the module, such as `scipy.stats`.
        extra (`str`): The extra of this package that installs it.
        purpose (`str`): The function that needs it, as the beginning of the message.

    Raises:
        MissingPackageError: If the package is not installed.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # the package is installed, but one of its own requirements is missing
        raise MissingPackageError(
            f"{purpose} needs the package {package}, which is not installed: pip install 'adversarial-mlm[{extra}]'"
        ) from error
    return importlib.import_module(module)
