"""What is said of a push that failed."""

from pathlib import Path

import pytest

from adversarial_mlm.saving import hub

SIGNED = "https://bucket.example/model?X-Amz-Signature=0123abcd&X-Amz-Credential=me"


@pytest.mark.parametrize("token", ["hf_" + "OfTheArguments", "not-of-the-usual-form"])
def test_no_reason_holds_a_token_or_a_signature(token):
    other = "hf_" + "OfSomebodyElseEntirely"
    reason = hub._reason(OSError(f"{token} and\n{other} were refused by '{SIGNED}'"), token)
    assert reason == "OSError: ... and hf_... were refused by 'https://bucket.example/model?..."


def test_the_reason_is_what_stopped_an_upload_and_not_that_it_stopped():
    error = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    error.__cause__ = ConnectionResetError("the connection was reset")
    assert hub._reason(error, None) == "ConnectionResetError: the connection was reset"


def test_a_page_of_text_is_cut():
    assert len(hub._reason(OSError("word " * 1000), None)) < 400


def test_a_disk_that_is_full_is_a_push_that_failed(tmp_path, monkeypatch):
    def copy(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub.shutil, "copyfile", copy)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(hub.PushError, match="cannot copy what is to be pushed: No space left on device"):
        hub.take_snapshot(hub.files_of_model(str(tmp_path)), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
