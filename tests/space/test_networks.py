import pytest

from adversarial_mlm.space.networks import NetworkStore
from adversarial_mlm.utils.errors import CheckpointError, RecipeError


def test_the_default_model_is_loaded_once_and_described(trained):
    store = NetworkStore(trained, device="cpu")
    networks = store.load()
    assert store.load(f" {trained} ") is networks and not networks.model.training and not networks.noiser.training
    assert networks.rules.adversarial_rate == 0.2 and networks.rules.blind
    said = networks.description()
    assert said.startswith(f"{trained}: an encoder with ") and "with a noiser" in said
    assert "So small a model knows little about proteins" in said


def test_two_models_are_kept(trained, tmp_path, save_encoder):
    store = NetworkStore(trained, device="cpu")
    first = store.load()
    second = store.load(save_encoder("bert"))
    assert store.load() is first
    store.load(save_encoder("esm"))
    assert store.load() is first and store.load(second.name) is not second
    with pytest.raises(CheckpointError, match="bert has no noiser, so only the tab Substitutions can use it"):
        second.noiser_and_rules()


def test_a_public_page_has_one_model_only(trained, tmp_path):
    store = NetworkStore(trained, device="cpu", only_default=True)
    assert store.load("") is store.load(trained)
    with pytest.raises(CheckpointError, match="This page only shows"):
        store.load(str(tmp_path))


def test_models_that_cannot_be_loaded_are_named_as_the_page_names_them(trained, tmp_path):
    store = NetworkStore(trained, device="cpu")
    with pytest.raises(CheckpointError, match="^no/such/folder, but there is no such folder.$"):
        store.load("no/such/folder")
    with pytest.raises(CheckpointError) as caught:
        store.load("somebody/model-on-the-hub")  # the tests are offline
    assert str(caught.value).startswith("somebody/model-on-the-hub") and "model_name_or_path" not in str(caught.value)
    with pytest.raises(RecipeError, match="--device is warp, which cannot be used"):
        NetworkStore(trained, device="warp").load()
