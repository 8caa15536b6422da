from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from adversarial_mlm import AdversarialMLMTrainer, AdversarialMLMTrainingArguments, DataCollatorForAdversarialMLM
from adversarial_mlm.training import launch_checks
from adversarial_mlm.training.launch_checks import check_accelerator, check_devices


@pytest.fixture
def arguments(tmp_path):
    return AdversarialMLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])


def an_accelerator(kind=DistributedType.NO, parallelism_config=None, **plugins):
    state = SimpleNamespace(**{"fsdp_plugin": None, "deepspeed_plugin": None, **plugins})
    return SimpleNamespace(state=state, distributed_type=kind, parallelism_config=parallelism_config)


@pytest.mark.parametrize("kind", [DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU])
def test_a_process_for_each_device_is_supported(kind):
    check_accelerator(an_accelerator(kind))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"kind": DistributedType.FSDP}, "FSDP"),
        ({"fsdp_plugin": object()}, "FSDP"),  # of one process
        ({"kind": DistributedType.DEEPSPEED}, "DeepSpeed"),
        ({"deepspeed_plugin": object()}, "DeepSpeed"),
        ({"kind": DistributedType.XLA}, "PyTorch/XLA"),
        ({"kind": DistributedType.MEGATRON_LM}, "Megatron-LM"),
        ({"kind": DistributedType.MULTI_NPU}, "MULTI_NPU"),
        ({"kind": DistributedType.MULTI_GPU, "parallelism_config": object()}, "parallelism_config"),
    ],
)
def test_what_was_set_up_is_refused_by_name_with_what_to_use(settings, name):
    with pytest.raises(ValueError, match=rf"{name}.* is not supported: start one process per GPU .*--multi_gpu"):
        check_accelerator(an_accelerator(**settings))


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed", "Megatron_LM"])
def test_what_a_launcher_asks_for_is_refused_before_its_package_is_needed(tmp_path, monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(
        ValueError, match=f"{name.replace('_', '-')} .*accelerate launch.* is not supported: start one"
    ):
        AdversarialMLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"_tp_size": 2}, "tensor parallelism"),
        ({"hf_device_map": {"embeddings": 0, "encoder": 1}}, r"a model on 2 devices \(device_map\)"),
    ],
)
def test_a_network_in_parts_is_refused_by_the_trainer(make_encoder, make_noiser, tokenizer, arguments, changes, name):
    encoder = make_encoder()
    for attribute, value in changes.items():
        setattr(encoder, attribute, value)
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser())
    with pytest.raises(ValueError, match=f"{name}.* is not supported: start one process per GPU"):
        AdversarialMLMTrainer(encoder, arguments, collator)


def test_a_network_that_is_sharded_as_it_is_loaded_is_refused(arguments):
    with pytest.raises(ValueError, match="a model that is sharded while it is loaded is not supported"):
        check_devices(SimpleNamespace(is_distributed_loading_by_transformers=True), arguments)


def test_several_gpus_in_one_process_are_refused_by_the_trainer(make_encoder, make_noiser, tokenizer, arguments):
    arguments._n_gpu = 2  # as on a machine with two
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser())
    with pytest.raises(
        ValueError, match=r"nn.DataParallel \(one process sees 2 GPUs.* is not supported: start one process"
    ):
        AdversarialMLMTrainer(make_encoder(), arguments, collator)


def test_a_network_on_one_device_is_no_network_in_parts(make_encoder, arguments):
    encoder = make_encoder()
    encoder.hf_device_map = {"": "cpu"}
    check_devices(encoder, arguments)


def test_where_there_is_mps_the_cpu_is_used_and_a_word_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(launch_checks, "is_torch_mps_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    args = AdversarialMLMTrainingArguments(output_dir=str(tmp_path), report_to=[])
    assert args.use_cpu and args.device.type == "cpu"
    assert "the CPU is used (use_cpu: true), because the MPS device of this machine has no float64" in caplog.text
    caplog.clear()
    assert AdversarialMLMTrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True).use_cpu
    assert not caplog.text


@pytest.mark.parametrize(("processes", "has_gpu", "on_cpu"), [(2, False, True), (2, True, False), (1, False, False)])
def test_several_processes_without_a_gpu_form_one_run_on_the_cpu(monkeypatch, processes, has_gpu, on_cpu):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    args = SimpleNamespace(use_cpu=False)
    launch_checks.join_on_cpu(args)
    assert args.use_cpu is on_cpu
