"""The files of the Space fit the package and its pinned versions."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml


@pytest.fixture(scope="module")
def folder(repository):
    return repository / "examples" / "space"


def test_the_readme_has_the_settings_that_the_hub_needs(folder, repository):
    _, settings, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found = yaml.safe_load(settings)
    pins = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (repository / "constraints.txt").read_text()))
    assert found["sdk"] == "gradio" and found["sdk_version"] == pins["gradio"]
    assert (folder / found["app_file"]).is_file() and found["license"] == "apache-2.0"
    assert {"title", "emoji", "colorFrom", "colorTo", "short_description"} <= set(found) and text.startswith("\n# ")
    assert len(found["short_description"]) <= 60


def test_the_requirements_name_the_package_and_an_extra_of_it(folder, repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    (line,) = (folder / "requirements.txt").read_text().split()
    name, extra = re.fullmatch(r"([\w-]+)\[(\w+)\]", line).groups()
    assert name == project["name"] and any(
        part.startswith("gradio") for part in project["optional-dependencies"][extra]
    )


def test_a_space_without_a_model_says_which_variable_to_set(folder, repository):
    environment = {"PYTHONPATH": str(repository), "SPACE_ID": "me/space", "PATH": "/usr/bin:/bin"}
    found = subprocess.run([sys.executable, str(folder / "app.py")], capture_output=True, text=True, env=environment)
    assert found.returncode == 1 and found.stderr == (
        "MODEL is not set: set this variable of the Space to the name of your model on the Hub\n"
    )
