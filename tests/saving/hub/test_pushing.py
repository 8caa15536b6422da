"""Pushes of `AdversarialMLMTrainer`, with the real client and a server that keeps every commit."""

from pathlib import Path

import pytest
from safetensors.torch import load, load_file
from transformers import AutoModelForMaskedLM

from adversarial_mlm import NoiserModel
from tests.helpers.hub_helpers import SENT, files_below
from tests.helpers.hub_server import SIGNATURE, TOKEN

HERE = Path(__file__).parent
REPO = "somebody/run"

pytestmark = pytest.mark.slow


def assert_no_token(server, folder: Path) -> None:
    for secret in (TOKEN.encode(), SIGNATURE.encode()):
        assert not [name for name, content in files_below(folder).items() if secret in content]
        for commit in server.commits(REPO):
            assert secret not in commit.message.encode()
            assert not [name for name, content in commit.tree.items() if secret in content]


def lines_about_pushes(result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("push_to_hub")]


def test_every_push_is_one_commit_of_what_was_saved_however_slow_the_hub(
    server, train, interpreter_with_hub, tmp_path
):
    # nothing is answered until training is over; meanwhile older checkpoints are removed and the log grows
    server.hold("step-3", until="preupload")
    server.hold("preupload", until="saved-6")
    result, outcome = train(max_steps=6, save_total_limit=1, hub_always_push=True)
    assert server.events.index("preupload") < server.events.index("step-3")
    assert server.events.index("saved-6") < server.events.index("committed Training in progress, step 2")
    assert outcome == {
        "steps": 6,
        "pushes": {"sent": 3, "failed": 0, "skipped": 0},
        "outcomes": [f"{server.url}/{REPO}"],
    }
    folder, commits = tmp_path / "run", server.commits(REPO)
    messages = [f"Training in progress, step {step}" for step in (2, 4, 6)] + ["End of training"]
    assert [commit.message for commit in commits] == messages
    for step, commit in zip((2, 4, 6), commits, strict=False):
        kept = files_below(tmp_path / "run-kept" / f"checkpoint-{step}")
        assert set(commit.tree) == SENT
        assert all(commit.tree[name] == kept[name] for name in SENT - {".gitattributes"})
        assert {"model.safetensors", "noiser/model.safetensors", "metrics.jsonl", "README.md"} <= set(commit.changed)
        assert f'"step": {step}' in commit.tree["metrics.jsonl"].decode().splitlines()[-1]
        assert f'from_pretrained("{REPO}", subfolder="noiser")' in commit.tree["README.md"].decode()
    local = files_below(folder)
    assert set(commits[-1].tree) == SENT
    assert all(commits[-1].tree[name] == local[name] for name in SENT - {".gitattributes"})
    assert [name for name in local if name.startswith("checkpoint-4")] == [], "save_total_limit"
    assert not list(folder.glob(".push-to-hub-*"))
    assert not lines_about_pushes(result)
    assert_no_token(server, folder)

    loaded = interpreter_with_hub.run(HERE / "load.py", REPO, tmp_path / "loaded.safetensors", HF_TOKEN="")
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    parameters, networks = (
        load_file(tmp_path / "loaded.safetensors"),
        {
            "encoder": AutoModelForMaskedLM.from_pretrained(folder),
            "noiser": NoiserModel.from_pretrained(folder, subfolder="noiser"),
        },
    )
    expected = {f"{n}.{name}": value for n, network in networks.items() for name, value in network.named_parameters()}
    assert parameters.keys() == expected.keys()
    assert all(parameters[name].equal(value) for name, value in expected.items())


def test_while_a_push_is_under_way_the_next_is_skipped_and_a_checkpoint_goes_with_it_on_request(
    server, train, tmp_path
):
    server.hold("commit", until="saved-6")
    result, outcome = train(max_steps=6, hub_strategy="checkpoint", hub_revision="trials")
    assert outcome["pushes"] == {"sent": 1, "failed": 0, "skipped": 2}
    assert server.commits(REPO) == []
    first, final = server.commits(REPO, "trials")
    checkpoint = files_below(tmp_path / "run" / "checkpoint-2")
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < set(checkpoint)
    pushed = {name: content for name, content in first.tree.items() if name.startswith("last-checkpoint/")}
    assert pushed == {f"last-checkpoint/{name}": content for name, content in checkpoint.items()}
    assert set(first.tree) - set(pushed) == SENT
    assert not [name for name in first.tree if "training_args.bin" in name]
    assert load(final.tree["noiser/model.safetensors"]).keys() == load(first.tree["noiser/model.safetensors"]).keys()
    assert final.tree["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()


def test_failed_pushes_cost_one_warning_and_nothing_else(server, train, tmp_path):
    faults = (500, "reset", 401, "silence")
    server.fail_next("commit", *faults, "fine", *faults, "fine")
    result, outcome = train(
        max_steps=10, hub_always_push=True, silence_limit=2.5, final_pushes=5, hub_strategy="all_checkpoints"
    )
    assert outcome["steps"] == 10
    assert outcome["pushes"] == {"sent": 1, "failed": 4, "skipped": 0}
    assert lines_about_pushes(result) == [
        "push_to_hub: step 2 was not pushed: the Hub answered 500 Internal Server Error (told to fail told to fail, "
        "Bearer ...); training continues, the next save tries again, and further failures are counted",
        "push_to_hub: of the saves during training 1 was pushed, 4 failed, and 0 were skipped because the "
        "push before them was still in progress",
    ]
    assert "Traceback" not in result.stderr and "Retrying" not in result.stderr
    for step in (2, 4, 6, 8, 10):
        checkpoint, kept = (tmp_path / name / f"checkpoint-{step}" for name in ("run", "run-kept"))
        local = files_below(checkpoint)
        assert local == {name: files_below(kept)[name] for name in local}
        AutoModelForMaskedLM.from_pretrained(checkpoint)
        NoiserModel.from_pretrained(checkpoint, subfolder="noiser")
    assert [commit.message for commit in server.commits(REPO)] == ["Training in progress, step 10", "End of training"]
    resumable = {f"checkpoint-10/{name}" for name in files_below(tmp_path / "run" / "checkpoint-10")}
    assert "checkpoint-10/optimizer.pt" in resumable
    for commit in server.commits(REPO):
        assert set(commit.tree) == SENT | resumable
    *failures, address = outcome["outcomes"]
    assert address == f"{server.url}/{REPO}"
    for failure, words in zip(failures, ("500 Internal", "ReadError", "401 Unauthorized", "ReadTimeout"), strict=True):
        assert words in failure and "\n" not in failure
    assert not list((tmp_path / "run").glob(".push-to-hub-*"))
    assert_no_token(server, tmp_path)


def test_a_run_that_was_not_to_be_pushed_can_be_pushed_afterwards(server, train, tmp_path):
    (tmp_path / "run" / ".push-to-hub-left-over").mkdir(parents=True)  # by a run that was killed
    (tmp_path / "run" / "runs").mkdir()
    (tmp_path / "run" / "runs" / "mine.txt").write_text("not of the model")
    train(max_steps=2, push_to_hub=False)
    (commit,) = server.commits(REPO)
    assert commit.message == "End of training" and set(commit.tree) == SENT
    assert not (tmp_path / "run" / ".push-to-hub-left-over").exists()
