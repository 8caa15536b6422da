import os
import signal

import pytest

from adversarial_mlm.downstream import run
from adversarial_mlm.downstream.arguments import TapeArguments
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.utils import interrupts
from adversarial_mlm.utils.errors import Interrupted
from tests.helpers.toy_tasks import toy_task


def test_the_results_of_each_task_are_kept_when_it_is_complete(tmp_path, monkeypatch):
    kept = []

    def load(args, name):
        if name == "classification":
            os.kill(os.getpid(), signal.SIGINT)
        return toy_task(tmp_path, name, train=30, others=12)

    monkeypatch.setattr(run, "load_data", load)
    args = TapeArguments(task=["regression", "classification"], mode="baselines", bootstrap_samples=0)
    with pytest.raises(Interrupted), interrupts.raised():
        run.run(args, FinetuneSettings(), kept.append)
    assert [{record["kind"] for record in records} for records in kept] == [{"regression"}]
