"""Which methods of `transformers.Trainer` are overridden, and that upstream has not changed them."""

import ast
import inspect

import pytest
from transformers import Trainer

from adversarial_mlm import AdversarialMLMTrainer
from adversarial_mlm.training.checkpointing_trainer import CheckpointingTrainer

# as they were in transformers 5.23.0, with which every override was checked
SIGNATURES = {
    "_finalize_training": "(self, trial, num_train_samples, start_time)",
    "_get_dataloader": "(self, dataset, description, batch_size, sampler_fn=None, is_training=False, "
    "dataloader_key=None)",
    "_get_grad_norm": "(self, model, grad_norm=None)",
    "_init_training_state": "(self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, "
    "trial)",
    "_load_best_model": "(self)",
    "_load_from_checkpoint": "(self, resume_from_checkpoint, model=None)",
    "_maybe_log_save_evaluate": "(self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, "
    "learning_rate=None)",
    "_prepare_inputs": "(self, inputs)",
    "_prepare_for_training": "(self, max_steps, train_dataloader, resume_from_checkpoint)",
    "_run_epoch": "(self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, "
    "ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch)",
    "_save_checkpoint": "(self, model, trial)",
    "compute_loss": "(self, model, inputs, return_outputs=False, num_items_in_batch=None)",
    "create_model_card": "(self, language=None, license=None, tags=None, model_name=None, finetuned_from=None, "
    "tasks=None, dataset_tags=None, dataset=None, dataset_args=None)",
    "create_optimizer": "(self, model=None)",
    "create_scheduler": "(self, num_training_steps, optimizer=None)",
    "evaluation_loop": "(self, dataloader, description, prediction_loss_only=None, ignore_keys=None, "
    "metric_key_prefix='eval')",
    "get_batch_samples": "(self, epoch_iterator, num_batches, device)",
    "get_train_dataloader": "(self)",
    "init_hf_repo": "(self, token=None, private=None)",
    "log": "(self, logs, start_time=None)",
    "push_to_hub": "(self, commit_message='End of training', blocking=True, token=None, revision=None, "
    "private=None, **kwargs)",
    "save_model": "(self, output_dir=None, _internal_call=False)",
    "set_initial_training_values": "(self, args, dataloader)",
    "train": "(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None)",
    "training_step": "(self, model, inputs, num_items_in_batch=None)",
}  # fmt: skip
BEFORE_5_23 = {
    "init_hf_repo": "(self, token=None)",
    "push_to_hub": "(self, commit_message='End of training', blocking=True, token=None, revision=None, **kwargs)",
}
"""Signatures without `private` in the older versions that pyproject.toml allows; the stock code never passes it."""


def overridden() -> dict[str, list[type]]:
    """Name of a method of `Trainer` → the classes of this package that override it."""
    found = {}
    for cls in (AdversarialMLMTrainer, CheckpointingTrainer):
        for name, value in vars(cls).items():
            if inspect.isfunction(value) and name != "__init__" and hasattr(Trainer, name):
                found.setdefault(name, []).append(cls)
    return found


def bare(function) -> str:
    """A signature without annotations."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def test_every_override_is_in_the_list_and_private_ones_are_few():
    assert overridden().keys() == SIGNATURES.keys()
    assert len([name for name in SIGNATURES if name.startswith("_")]) <= 11


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_stock_method_has_the_signature_with_which_its_override_was_checked(name):
    assert bare(getattr(Trainer, name)) in (SIGNATURES[name], BEFORE_5_23.get(name))


def test_every_private_override_says_which_stock_behaviour_it_replaces():
    for cls in (AdversarialMLMTrainer, CheckpointingTrainer):
        lines = inspect.getsource(cls).splitlines()
        (tree,) = ast.parse(inspect.getsource(cls)).body
        for method in tree.body:
            if isinstance(method, ast.FunctionDef) and method.name in SIGNATURES and method.name.startswith("_"):
                before_code = lines[method.lineno - 1 : method.body[0].lineno]
                assert any(line.strip().startswith("# Stock: ") for line in before_code), method.name
