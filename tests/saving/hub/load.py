"""Load what a repository of the Hub holds, as a user does, and write all parameters: `load.py REPOSITORY FILE`."""

import sys

from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from adversarial_mlm import NoiserModel


def main(repo_id: str, path: str) -> None:
    encoder = AutoModelForMaskedLM.from_pretrained(repo_id)
    noiser = NoiserModel.from_pretrained(repo_id, subfolder="noiser")
    tokenizer = AutoTokenizer.from_pretrained(repo_id)
    parameters = {f"encoder.{name}": value.contiguous() for name, value in encoder.named_parameters()}
    parameters |= {f"noiser.{name}": value.contiguous() for name, value in noiser.named_parameters()}
    save_file({name: value.detach() for name, value in parameters.items()}, path)
    print(tokenizer("MKTAYIAKQR")["input_ids"])


if __name__ == "__main__":
    main(*sys.argv[1:])
