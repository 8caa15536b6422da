import pytest

from adversarial_mlm import presets
from adversarial_mlm.recipes.recipe import parse_recipe


@pytest.fixture
def make_recipe(repository, cache_dir, tmp_path, monkeypatch):
    """The demo in miniature: networks of a few thousand parameters, a few steps."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setitem(presets.ENCODERS, "tiny", sizes)
    data = repository / "examples" / "data"
    demo = (repository / "examples" / "recipes" / "demo.yaml").read_text().replace("examples/data", str(data))
    (tmp_path / "demo.yaml").write_text(demo)

    def make(**changes):
        settings = {
            "output_dir": tmp_path / "run",
            "cache_dir": cache_dir,
            "max_steps": 4,
            "encoder_steps": 2,
            "noiser_steps": 1,
            "eval_steps": 4,
            "logging_steps": 2,
            "max_eval_records": 60,
            "per_device_train_batch_size": 4,
            "disable_tqdm": True,
            "use_cpu": True,
            **changes,
        }
        if not any(settings.get(f"holdout_{of}", of != "random") for of in ("families", "members", "random")):
            settings["max_eval_records"] = changes.get("max_eval_records")
        words = [word for name, value in settings.items() if value is not None for word in (f"--{name}", str(value))]
        return parse_recipe([str(tmp_path / "demo.yaml"), *words])

    return make
