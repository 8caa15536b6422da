import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import adversarial_mlm


def test_importing_the_package_imports_nothing_heavy():
    code = "import adversarial_mlm, sys; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in adversarial_mlm.__all__:
        assert getattr(adversarial_mlm, name) is not None
    assert set(adversarial_mlm.__all__) <= set(dir(adversarial_mlm))


def test_no_module_imports_the_packages_of_the_extras_at_its_start(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    packages = {name for extra in ("compare", "plot", "tape", "tracking") for name in extras[extra]} | {"peft"}
    assert "greenlet" in packages and not packages & set(project["dependencies"])
    for path in Path(adversarial_mlm.__file__).parent.rglob("*.py"):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                module = getattr(statement, "module", None) or statement.names[0].name
                assert module.partition(".")[0] not in packages, f"{path}:{statement.lineno}"
