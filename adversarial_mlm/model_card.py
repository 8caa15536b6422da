"""The model card, rendered from one template at every save."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

from . import __version__

if TYPE_CHECKING:
    from .trainer import AdversarialMLMTrainer

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"


def write(trainer: "AdversarialMLMTrainer", output_dir: str, figures: dict | None = None) -> None:
    """Render the card of a run as it stands into `output_dir/README.md`.

    Args:
        trainer ([`AdversarialMLMTrainer`]): Its `run_facts["data"]` and `run_facts["command"]` (`str`), where set, are
            told in the card.
        output_dir (`str`): Where the model is saved.
        figures (`dict`, *optional*): Of an evaluation of these weights; the default takes the newest that were logged
            up to the step of these weights.
    """
    tags = ["protein", "masked-language-modeling"] + (["adversarial-masking"] if trainer.noiser is not None else [])
    tokenizer = trainer.data_collator.tokenizer
    step = trainer.loaded_best_step or trainer.state.global_step
    card = ModelCard.from_template(
        ModelCardData(library_name="transformers", pipeline_tag="fill-mask", tags=tags),
        template_path=str(TEMPLATE),
        name=trainer.hub_model_id or Path(trainer.args.output_dir).name,
        location=trainer.hub_model_id or "PATH-OR-NAME-OF-THIS-MODEL",
        architecture=type(trainer.model).__name__,
        parameters=f"{trainer.model.num_parameters() / 1e6:.1f} M",
        hidden_size=trainer.model.config.hidden_size,
        noiser=trainer.noiser is not None,
        version=__version__,
        facts=_facts(trainer, step),
        step=step,
        metrics=_metrics(
            [e for e in trainer.state.log_history if e["step"] <= step] if figures is None else [figures]
        ),
        mask_percent=f"{100 * trainer.args.eval_mask_rate:g}",
        mask_token=tokenizer.mask_token,
    )
    # newline fixed, so that the same card comes out on every system
    with open(os.path.join(output_dir, "README.md"), "w", encoding="utf-8", newline="\n") as file:
        file.write(str(card))


def _facts(trainer: "AdversarialMLMTrainer", step: int) -> list[str]:
    args, collator = trainer.args, trainer.data_collator
    rules = collator.rules
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    facts = [
        f"{step} of {trainer.state.max_steps} encoder updates on {batch} sequences each, {args.optim.value}, "
        f"peak learning rate {args.learning_rate:g}, weight decay {args.weight_decay:g}, seed {args.seed}",
        f"random masks: {100 * rules.random_rate:g} % of the residues of every protein, "
        f"[MASK]/keep/replace {'/'.join(f'{100 * share:g}' for share in rules.mask_options)}",
    ]
    if trainer.noiser is not None:
        facts += _game_facts(trainer)
    window = collator.sequence_encoder.max_residues
    facts.append(
        f"of a sequence of more than {window} residues a random window of that length, a fresh one each epoch"
    )
    for name in ("data", "command"):
        if name in trainer.run_facts:
            facts.append(f"{name}: {trainer.run_facts[name]}")
    return facts


_VIEWS = {
    "full": "sees the whole protein",
    "context": "sees all but the residue it scores",
    "blind": "chooses among random candidates that are hidden from it",
}


def _game_facts(trainer: "AdversarialMLMTrainer") -> list[str]:
    args, rules, noiser = trainer.args, trainer.data_collator.rules, trainer.noiser
    how = "where and how" if rules.learned_options else "where, always by [MASK]"
    training = {
        "alternate": f"{args.noiser_steps} noiser updates to every {args.encoder_steps} of the encoder",
        "reversal": "the noiser learns by gradient reversal with every "
        + ("update" if args.noiser_every == 1 else f"{args.noiser_every}th update")
        + " of the encoder",
        "none": "not trained",
    }[args.noiser_update]
    if rules.selection == "threshold" or not rules.gated:
        how += f"; selection {rules.selection}, {'gated' if rules.gated else 'not gated'}"
    share = " ".join(args.adversarial_share)
    if share != "1":
        how += f"; share of the noiser over the steps {share}"
    facts = [
        f"adversarial masks: {100 * rules.adversarial_rate:g} % of the residues ({how}), chosen by a "
        f"{noiser.config.backbone} noiser with {noiser.num_parameters() / 1e6:.1f} M parameters that "
        f"{_VIEWS[noiser.config.view]}",
        f"the game: {training}, learning rate {args.noiser_learning_rate:g}, reward {args.noiser_reward}, sampler "
        f"{rules.sampler}, importance weights' exponent {args.importance_exponent:g}, loss over "
        f"{args.loss_scope} residues",
    ]
    if trainer.collapsed_at is not None:
        facts.append(f"**the game collapsed** at update {trainer.collapsed_at}: see `metrics.jsonl`")
    return facts


def _metrics(log_history: list[dict]) -> list[dict[str, str]]:
    """The newest figures of each evaluation set, as text."""
    newest: dict[str, dict] = {}
    for entry in log_history:
        for key in entry:
            if key.startswith("eval") and key.endswith("_perplexity"):
                newest[key.removesuffix("_perplexity")] = entry
    columns = ("loss", "perplexity", "accuracy", "background_loss", "adversarial_loss", "random_loss")
    return [
        {"name": prefix.removeprefix("eval").strip("_") or "validation"}
        | {c: f"{entry[f'{prefix}_{c}']:.3f}" if f"{prefix}_{c}" in entry else "–" for c in columns}
        for prefix, entry in newest.items()
    ]
