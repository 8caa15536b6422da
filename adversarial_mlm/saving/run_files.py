"""The names of the files that a pre-training run writes into its output folder."""

from transformers import TrainingArguments

from adversarial_mlm.models.loading import NOISER_FOLDER

# written by every save, into the output folder and into checkpoints
CARD_FILE = "README.md"
ARGUMENTS_FILE = "training_args.json"

# written at the end of a run that trains an adapter, with `merge_adapter`
MERGED_FOLDER = "merged"

# written by a checkpoint only
SLOW_ENCODER_FILE = "slow_encoder.safetensors"  # with `noiser_reward: reducible`
TEACHER_FILE = "teacher.safetensors"  # with `loss_weights: learnability` or `soft_targets`
OPTIONS_FILE = "options.json"  # all options of the run, and what identifies its data
MANIFEST_FILE = "manifest.json"

# written by the run itself
METRICS_FILE = "metrics.jsonl"
RECORDS_FILE = "nonfinite_records.json"  # only if updates were left out because they were not finite

# written by a report on the run
REPORT_FILE = "report.html"
REPORT_PICTURE = "report.png"
POLICY_PICTURE = "mask_policy.png"  # of one run with a noiser; the model card shows it
REPORT_FOLDER = "report"
_PICTURES = ("losses", "enrichment", "masks", "replacements", "positions", "learning_rates", "gradients", "speed")
REPORT_FILES = (REPORT_FILE, REPORT_PICTURE, POLICY_PICTURE, *(f"{REPORT_FOLDER}/{name}.png" for name in _PICTURES))

# written by a recipe
RECIPE_FILE = "recipe.yaml"
EDITED_RECIPES = "recipe.edited*.yaml"
DATA_FILE = "data.json"
CARD_FACTS_FILE = "card_facts.json"  # from which the card can be written anew
MARKER_FILE = ".run.json"  # lists what the run wrote

__all__ = [
    "ARGUMENTS_FILE",
    "CARD_FACTS_FILE",
    "CARD_FILE",
    "DATA_FILE",
    "EDITED_RECIPES",
    "MANIFEST_FILE",
    "MARKER_FILE",
    "MERGED_FOLDER",
    "METRICS_FILE",
    "NOISER_FOLDER",
    "OPTIONS_FILE",
    "POLICY_PICTURE",
    "RECIPE_FILE",
    "RECORDS_FILE",
    "REPORT_FILE",
    "REPORT_FILES",
    "REPORT_FOLDER",
    "REPORT_PICTURE",
    "SLOW_ENCODER_FILE",
    "TEACHER_FILE",
    "output_folder",
]


def output_folder(args: TrainingArguments) -> str:
    """`output_dir`. `TrainingArguments` declares it as optional, but always has one."""
    return str(args.output_dir)
