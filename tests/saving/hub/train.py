"""A short run of tiny networks that is pushed to the Hub of `HF_ENDPOINT`. Started by the tests with one argument, a
JSON object: `arguments` of the run, `final_pushes` (how often to call `push_to_hub` after it) and `silence_limit`.

Every step and save is reported to the server, every saved checkpoint is copied to OUTPUT_DIR-kept, and what the pushes
gave is written to OUTPUT_DIR.json.
"""

import json
import os
import shutil
import sys
import urllib.request
from pathlib import Path

import datasets
import torch
from transformers import BertForMaskedLM, TrainerCallback

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    NoiserConfig,
    NoiserModel,
    build_protein_tokenizer,
    presets,
)
from adversarial_mlm.saving import hub


def report(event: str) -> None:
    url = f"{os.environ['HF_ENDPOINT']}/test/event/{event}"
    urllib.request.urlopen(urllib.request.Request(url, data=b"", method="POST"), timeout=90).close()


class Witness(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        report(f"step-{state.global_step}")

    def on_save(self, args, state, control, **kwargs):
        kept = Path(f"{args.output_dir}-kept", f"checkpoint-{state.global_step}")
        shutil.copytree(Path(args.output_dir, kept.name), kept)
        shutil.copy(Path(args.output_dir, "metrics.jsonl"), kept)
        report(f"saved-{state.global_step}")


def build_trainer(arguments: dict) -> AdversarialMLMTrainer:
    generator = torch.Generator().manual_seed(0)
    letters = "ACDEFGHIKLMNPQRSTVWY"
    proteins = ["".join(letters[i] for i in torch.randint(20, (30,), generator=generator)) for _ in range(24)]
    tokenizer = build_protein_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    noiser = NoiserModel(NoiserConfig.from_tokenizer(tokenizer, embedding_size=8, hidden_size=8, num_hidden_layers=1))
    common = {"per_device_train_batch_size": 4, "logging_steps": 1, "report_to": [], "use_cpu": True}
    common |= {"noiser_steps": 1, "encoder_steps": 1, "disable_tqdm": True, "push_to_hub": True}
    return AdversarialMLMTrainer(
        model=BertForMaskedLM(presets.encoder_config("tiny", **sizes)),
        args=AdversarialMLMTrainingArguments(**{**common, **arguments}),
        data_collator=DataCollatorForAdversarialMLM(tokenizer, noiser=noiser, max_length=40),
        train_dataset=datasets.Dataset.from_dict({"sequence": proteins}),
        processing_class=tokenizer,
        callbacks=[Witness()],
    )


def main(settings: dict) -> None:
    hub.SILENCE_LIMIT = settings.get("silence_limit", hub.SILENCE_LIMIT)
    trainer = build_trainer(settings["arguments"])
    trainer.train()
    outcomes = []
    for _ in range(settings.get("final_pushes", 1)):
        try:
            outcomes.append(str(trainer.push_to_hub().repo_url))
        except hub.PushError as error:
            outcomes.append(f"{error}")
    result = {"steps": trainer.state.global_step, "pushes": trainer.uploads.counts, "outcomes": outcomes}
    Path(f"{trainer.args.output_dir}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
