import sys
import types

import pytest

from adversarial_mlm.utils.errors import MissingPackageError
from adversarial_mlm.utils.extras import require


def test_a_module_of_a_package_is_imported():
    assert isinstance(require("xml.dom", "compare", "a report"), types.ModuleType)
    assert require("xml.dom", "compare", "a report") is sys.modules["xml.dom"]


def test_a_missing_package_is_named_with_its_purpose_and_extra():
    with pytest.raises(MissingPackageError) as missing:
        require("no_such_package.stats", "compare", "a comparison")
    assert str(missing.value) == (
        "a comparison needs the package no_such_package, which is not installed: "
        "pip install 'adversarial-mlm[compare]'"
    )


def test_what_a_package_itself_lacks_is_not_taken_for_the_package(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        require("half_installed", "compare", "a comparison")
