"""The script as users start it, with `push_to_hub: true`."""

import os
import re
import shlex
import socket

import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer

from adversarial_mlm import NoiserModel
from tests.helpers.exhaustive import exhaustive
from tests.helpers.hub_helpers import SENT, files_below
from tests.helpers.hub_server import SIGNATURE, TOKEN

pytestmark = pytest.mark.slow

REPO = "somebody/tiny-proteins"
SENT_BY_SCRIPT = SENT | {"recipe.yaml", "data.json"}


@pytest.fixture
def script(run, tmp_path):
    """The demo in miniature, pushed; returns the process."""

    def script(**options):
        settings = {
            "output_dir": tmp_path / "run",
            "cache_dir": tmp_path / "cache",
            "max_steps": 4,
            "logging_steps": 2,
            "eval_strategy": "no",
            "save_strategy": "steps",
            "save_steps": 2,
            "encoder_steps": 2,
            "noiser_steps": 1,
            "max_eval_records": 30,
            "per_device_train_batch_size": 4,
            "background_gate": "",
            "use_cpu": True,
            "disable_tqdm": True,
            "report": False,
            "push_to_hub": True,
            "hub_model_id": REPO,
            **options,
        }
        environment = {name: settings.pop(name) for name in list(settings) if name.isupper()}
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return run("examples/run_adv_mlm.py", "examples/recipes/demo.yaml", *words, **environment)

    return script


@pytest.mark.exhaustive
def test_a_run_is_pushed_with_the_figures_of_its_evaluation(server, script, tmp_path):
    server.fail_next("upload", 503)  # which the client tries again by itself
    result = script(HF_TOKEN="", hub_token=TOKEN, hub_always_push=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"Hub         {server.url}/{REPO}" in result.stdout.splitlines()
    messages = ["Training in progress, step 2", "Training in progress, step 4", "End of training"]
    assert [commit.message for commit in server.commits(REPO)] == messages
    assert all(set(commit.tree) == SENT_BY_SCRIPT for commit in server.commits(REPO))
    local, final = files_below(tmp_path / "run"), server.commits(REPO)[-1].tree
    assert all(final[name] == local[name] for name in SENT_BY_SCRIPT - {".gitattributes"})
    card = final["README.md"].decode()
    assert "| members " in card and "--hub_token ..." in card
    assert "eval_members_loss" in final["metrics.jsonl"].decode()
    told = [line for line in result.stderr.splitlines() if line.startswith("push") and "waiting" not in line]
    assert told == [f"push_to_hub: step {step} was pushed to {REPO}" for step in (2, 4)]
    for noise in ("Retrying", "HTTP", "Upload", "Traceback", "Warning", SIGNATURE):
        assert noise not in result.stdout + result.stderr, noise
    for content in (*local.values(), *(c for commit in server.commits(REPO) for c in commit.tree.values())):
        assert TOKEN.encode() not in content


@pytest.mark.exhaustive
def test_a_run_that_cannot_be_pushed_in_the_end_says_so_and_how_to_do_it(server, script, run, tmp_path):
    server.fail_next("commit", 500)
    result = script(hub_strategy="end")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("NOT PUSHED")]
    assert f"to {REPO}: the Hub answered 500" in line and f"the files in {tmp_path / 'run'} are complete" in line
    assert server.commits(REPO) == []
    AutoModelForMaskedLM.from_pretrained(tmp_path / "run")
    AutoTokenizer.from_pretrained(tmp_path / "run")
    NoiserModel.from_pretrained(tmp_path / "run", subfolder="noiser")

    program, *words = shlex.split(line.partition("to push them: ")[2])
    assert program == "hf"
    later = run("-m", "huggingface_hub.cli.hf", *words)
    assert later.returncode == 0, later.stderr
    (commit,) = server.commits(REPO)
    local = {name: c for name, c in files_below(tmp_path / "run").items() if not name.startswith("checkpoint-")}
    assert {name: commit.tree[name] for name in local} == local and set(commit.tree) == {".gitattributes", *local}
    assert SENT_BY_SCRIPT <= set(commit.tree)


def refused_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"HF_TOKEN": "hf_" + "Wrong" * 6}, "push_to_hub: .*somebody/tiny-proteins.* 401 .*hub_token"),
        exhaustive({"fault": ("auth", 403)}, "push_to_hub: .*somebody/tiny-proteins.* 403 .*hub_token"),
        exhaustive({"hub_model_id": "a//b"}, "hub_model_id: 'a//b' cannot be the name of a repository"),
        exhaustive({"HF_ENDPOINT": refused_port()}, "push_to_hub: the Hub at http.* cannot be used: ConnectError"),
    ],
)  # fmt: skip
def test_a_push_that_cannot_succeed_is_refused_before_anything_is_spent(server, script, tmp_path, options, sentence):
    server.fail_next(*options.pop("fault", ("commit",)))
    result = script(**options)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert re.search(f"^run_adv_mlm.py: {sentence}", last), result.stderr
    assert "Traceback" not in result.stderr and "Wrong" not in result.stderr + result.stdout
    assert not os.path.exists(tmp_path / "run" / "metrics.jsonl")
