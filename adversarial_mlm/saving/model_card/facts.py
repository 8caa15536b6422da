"""Everything that a model card is made from, as plain data."""

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.configuration_noiser import NoiserConfig

Points = tuple[tuple[int, float], ...]
"""An option that may change during training: pairs of an encoder update and a value."""


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter of `peft`.

    Attributes:
        kind: Such as `"LoRA"`.
        rank: `None` where this kind has none.
        has_other_ranks: Whether some modules have another rank.
        alpha: `None` where this kind has none.
        modules: Names of the adapted modules, or the pattern that they match.
        saved_modules: Names of the modules that were trained as a whole.
    """

    kind: str
    rank: int | None = None
    has_other_ranks: bool = False
    alpha: float | None = None
    modules: tuple[str, ...] = ()
    saved_modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncoderFacts:
    """An encoder; [`describe_encoder`] reads it from a model.

    Attributes:
        class_name: Class of the encoder, without its adapter.
        config: Its configuration.
        name: Folder or name on the Hub that it was loaded from; `None` if unknown.
        parameters: Number of parameters.
        trained_parameters: Number of parameters that were trained.
        partly_trained: Whether parameters that the loss reaches were frozen.
        trained_layers: The option `trained_layers` of the recipe.
        has_tied_output: Whether the output weights are the input embeddings.
        has_pooler: Whether `AutoModel` adds a pooler, which is not trained.
        has_contact_head: Whether it has a contact head, which is not trained.
        adapters: Its adapters.
        dtype: Such as `"float32"`.
    """

    class_name: str
    config: PreTrainedConfig
    name: str | None
    parameters: int
    trained_parameters: int
    partly_trained: bool
    trained_layers: int | None
    has_tied_output: bool
    has_pooler: bool
    has_contact_head: bool
    adapters: tuple[AdapterFacts, ...]
    dtype: str


@dataclass(frozen=True)
class InputFacts:
    """How proteins are turned into rows of tokens.

    Attributes:
        max_length: Longest row in tokens.
        max_residues: Longest window in residues.
        spaced: Whether the tokenizer needs spaces between residues.
        mask_token: Such as `"[MASK]"`.
    """

    max_length: int
    max_residues: int
    spaced: bool
    mask_token: str


@dataclass(frozen=True)
class OptimizationFacts:
    """How the encoder was trained.

    Attributes:
        max_steps: Encoder updates of the whole run.
        optimizer: The option `optim`.
        learning_rate: Peak learning rate.
        schedule: The option `lr_scheduler_type`.
        warmup_steps: Encoder updates of warm-up.
        weight_decay: Weight decay.
        max_grad_norm: Norm at which gradients are clipped; 0 for no clipping.
        batch_size_per_process: Sequences in one forward pass of one process.
        accumulation: Pairs of an encoder update and the number of accumulation steps from that update.
        unmasked_weight: Weight of residues that are not masked in the loss.
        importance_exponent: Exponent of the importance weights; 0 for none.
        teacher: What a teacher did to the loss, in words; empty without one.
    """

    max_steps: int
    optimizer: str
    learning_rate: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    batch_size_per_process: int
    accumulation: tuple[tuple[int, int], ...]
    unmasked_weight: float
    importance_exponent: float
    teacher: str = ""


@dataclass(frozen=True)
class NoiserFacts:
    """The noiser and how it was trained. The names are those of the options, without `noiser_`.

    Attributes:
        config: Its configuration.
        parameters: Number of parameters.
        encoder_dropout: The option `encoder_dropout_in_noiser_phase`.
        reward_description: What it maximised, in words.
    """

    config: NoiserConfig
    parameters: int
    update: str
    steps: int
    encoder_steps: int
    shared_phase_counter: bool
    encoder_dropout: bool
    every: int
    reversal_strength: Points
    adversarial_share: Points
    reward: str
    reward_description: str
    learning_rate: float
    learning_rate_factor: Points
    weight_decay: float
    max_grad_norm: float


@dataclass(frozen=True)
class DataFacts:
    """The training data and the held-out sets.

    Attributes:
        streamed: Whether the training data were streamed.
        proteins: Number of training proteins; `None` if they were streamed.
        held_out: Name of each held-out set → number of its proteins, `None` if they are streamed.
        counts: The content of `data.json`: numbers of records that were read, dropped and removed.
    """

    streamed: bool = False
    proteins: int | None = None
    held_out: dict[str, int | None] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RecipeFacts:
    """Options of a recipe that the trainer does not have. The names are those of the options."""

    train_data: tuple[str, ...]
    streaming: bool = False
    min_length: int = 10
    cluster_table: str | None = None
    holdout_families: float = 0.0
    holdout_members: float = 0.0
    holdout_random: float = 0.0
    data_license: str | None = None
    model_license: str | None = None


@dataclass(frozen=True)
class OptionChange:
    """An option that had another value before the run was resumed.

    Attributes:
        name: The option.
        step: Encoder updates that were made with the value before.
        before: Value until then, as text; `None` if it was not set.
        after: Value from then on.
    """

    name: str
    step: int
    before: str | None
    after: str | None


@dataclass(frozen=True)
class EnvironmentFacts:
    """Versions, hardware and seeds of a run.

    Attributes:
        versions: Name → version of Python, this package and its dependencies.
        device: Description of the GPU or CPU.
        processes: Number of processes.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.
        launcher_sets_precision: Whether `accelerate launch` set it, not the training arguments.
        seeds: Name of the option → seed.
    """

    versions: dict[str, str]
    device: str
    processes: int
    mixed_precision: str
    launcher_sets_precision: bool
    seeds: dict[str, int]


@dataclass(frozen=True)
class CardFacts:
    """Everything that a model card is made from; `trainer.card_facts()` returns it.

    Attributes:
        name: Title of the card.
        hub_id: Name on the Hub; `None` if the model is not pushed.
        step: Encoder updates that these weights have seen.
        best_by: Metric by which these weights were chosen as the best; `None` if they are the last.
        log_history: The log of the whole run, `trainer.state.log_history`.
        collapsed_at: Encoder update at which training collapsed; `None` if it did not.
        eval_mask_rate: Share of the residues that are masked in evaluation.
        eval_mask_seed: Seed of the masks in evaluation.
        encoder: The encoder.
        inputs: How proteins are turned into rows of tokens.
        rules: How many residues are masked, by random choice and by the noiser, and how.
        optimization: How the encoder was trained.
        noiser: `None` for a run with random masks only.
        data: The training data and the held-out sets.
        environment: Versions, hardware and seeds.
        options: Name → value of all options that differ from their defaults, as they were at the end.
        option_changes: Options that changed when the run was resumed, in order.
        recipe: `None` for a trainer that was set up in Python.
        base_model: What training started from, as it was given: a folder or a name on the Hub.
        command: The command that started the run, without the launcher.
    """

    name: str
    hub_id: str | None
    step: int
    best_by: str | None
    log_history: list[dict[str, Any]]
    collapsed_at: int | None
    eval_mask_rate: float
    eval_mask_seed: int
    encoder: EncoderFacts
    inputs: InputFacts
    rules: MaskingRules
    optimization: OptimizationFacts
    noiser: NoiserFacts | None
    data: DataFacts
    environment: EnvironmentFacts
    options: dict[str, str] = field(default_factory=dict)
    option_changes: tuple[OptionChange, ...] = ()
    recipe: RecipeFacts | None = None
    base_model: str | None = None
    command: str | None = None
