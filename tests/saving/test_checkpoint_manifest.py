import json

import pytest

from adversarial_mlm.models.loading import CheckpointError
from adversarial_mlm.saving import checkpoint_manifest


@pytest.fixture
def folder(tmp_path):
    checkpoint = tmp_path / "checkpoint-7"
    (checkpoint / "noiser").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(bytes(range(200)))
    (checkpoint / "noiser" / "model.safetensors").write_bytes(b"noiser")
    checkpoint_manifest.write(str(checkpoint), step=7, number=3, processes=2)
    return checkpoint


def test_what_was_written_is_verified_and_told(folder):
    told = checkpoint_manifest.verify(str(folder))
    assert (told["step"], told["number"], told["processes"]) == (7, 3, 2)
    assert set(told["files"]) == {"model.safetensors", "noiser/model.safetensors"}
    (folder / "notes.txt").write_text("a file of the user's does no harm")
    checkpoint_manifest.verify(str(folder))


def test_any_damage_to_any_file_is_found_and_the_file_is_named(folder):
    for name in ("model.safetensors", "noiser/model.safetensors"):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(CheckpointError, match=rf"checkpoint-7 has a damaged {name} \({len(content) - 1} bytes"):
            checkpoint_manifest.verify(str(folder))
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(CheckpointError, match=f"has a damaged {name} .wrong checksum"):
            checkpoint_manifest.verify(str(folder))
        path.unlink()
        with pytest.raises(CheckpointError, match=f"has no {name}, which its manifest.json lists"):
            checkpoint_manifest.verify(str(folder))
        path.write_bytes(content)
    checkpoint_manifest.verify(str(folder))


def test_every_cut_through_a_manifest_is_found(folder):
    path = folder / checkpoint_manifest.MANIFEST_FILE
    whole = path.read_bytes()
    for length in range(len(whole) - 2):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="has a damaged manifest.json"):
            checkpoint_manifest.read(str(folder))
    path.unlink()
    with pytest.raises(CheckpointError, match="has no manifest.json"):
        checkpoint_manifest.read(str(folder))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/hostname"])
def test_a_manifest_cannot_speak_of_files_elsewhere(folder, name):
    path = folder / checkpoint_manifest.MANIFEST_FILE
    content = json.loads(path.read_text())
    content["files"][name] = {"size": 1, "sha256": ""}
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="has a damaged manifest.json"):
        checkpoint_manifest.verify(str(folder))


def test_a_manifest_of_a_later_version_is_refused_as_such(folder):
    path = folder / checkpoint_manifest.MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="by a later version"):
        checkpoint_manifest.verify(str(folder))
