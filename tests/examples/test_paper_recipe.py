"""`examples/recipes/tape-38m.yaml`."""

import json

import pytest
from safetensors.torch import load_file

from adversarial_mlm import presets
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.recipes.run import pretrain
from adversarial_mlm.training.batch_schedule import BatchStage, accumulation


@pytest.fixture
def paper(repository, demo_fasta, tmp_path):
    """The recipe on the demo's proteins."""

    def read(*words: str):
        recipe = str(repository / "examples" / "recipes" / "tape-38m.yaml")
        common = ["--train_data", str(demo_fasta), "--use_cpu", "true", "--cache_dir", str(tmp_path / "cache")]
        return parse_recipe([recipe, *common, *words])

    return read


def test_it_says_what_the_paper_says(paper):
    recipe = paper()
    args, sizes = recipe.training, presets.encoder_config(recipe.model.encoder)
    assert (sizes.hidden_size, sizes.num_hidden_layers, sizes.num_attention_heads) == (512, 12, 8)
    assert (args.max_steps, args.learning_rate, args.weight_decay) == (1_000_000, 1e-4, 1e-2)
    assert (args.noiser_learning_rate, args.noiser_weight_decay, args.mixed_precision) == (1e-4, 1e-2, "no")
    assert (recipe.masking.adversarial_rate, recipe.masking.random_rate) == (0.1, 0.1)
    four = accumulation(args.batch_stages, "global_batch_size", args.train_batch_size, num_processes=4)
    assert four == [BatchStage(0, 1), BatchStage(800_000, 2)]  # 128, then 256 by accumulation


@pytest.mark.slow
def test_one_command_changes_the_stage_and_resumes_in_either(paper, tmp_path, monkeypatch):
    """The recipe with small networks and 10 updates of 16 and 32 proteins, two in each cycle."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setitem(presets.ENCODERS, "tiny", sizes)
    small = ["--encoder", "tiny", "--noiser", "tiny", "--max_length", "64", "--per_device_train_batch_size", "8"]
    small += ["--global_batch_size", "16@0", "32@80%", "--noiser_steps", "2", "--encoder_steps", "2"]
    small += ["--max_steps", "10", "--warmup_steps", "2", "--save_steps", "3", "--logging_steps", "1"]
    small += ["--dataloader_num_workers", "0", "--disable_tqdm", "true", "--save_total_limit", "5"]
    whole = tmp_path / "whole"
    pretrain(paper(*small, "--output_dir", str(whole)))
    entries = [json.loads(line) for line in open(whole / "metrics.jsonl")]
    epochs = [round(2240 * entry["epoch"]) for entry in entries if "loss" in entry]
    assert [after - before for before, after in zip([0, *epochs], epochs, strict=False)] == [16] * 8 + [32] * 2
    for step in (3, 9):  # in the first stage and in the second
        resumed = tmp_path / f"resumed-{step}"
        checkpoint = str(whole / f"checkpoint-{step}")
        pretrain(paper(*small, "--output_dir", str(resumed), "--resume_from_checkpoint", checkpoint))
        for name in ("model.safetensors", "noiser/model.safetensors"):
            one, other = load_file(whole / name), load_file(resumed / name)
            assert all((one[key] == other[key]).all() for key in one)
