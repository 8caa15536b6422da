import subprocess
import sys

import adversarial_mlm


def test_importing_the_package_imports_nothing_heavy():
    code = "import adversarial_mlm, sys; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in adversarial_mlm.__all__:
        assert getattr(adversarial_mlm, name) is not None
    assert set(adversarial_mlm.__all__) <= set(dir(adversarial_mlm))
