import pytest
import torch
from transformers import AutoModelForMaskedLM
from transformers.masking_utils import create_bidirectional_mask

from adversarial_mlm.models.attention_masks import additive_mask, encoder_mask, square_mask

LENGTHS = torch.tensor([9, 4, 1])
PADDED = (torch.arange(9) < LENGTHS[:, None]).long()
IDS = torch.randint(5, 25, (3, 9), generator=torch.Generator().manual_seed(0)) * PADDED


def test_the_square_mask_is_the_one_that_transformers_makes(make_encoder):
    encoder = make_encoder()
    theirs = create_bidirectional_mask(encoder.config, torch.zeros(3, 9, 16), PADDED)
    assert theirs.dtype == torch.bool and torch.equal(square_mask(PADDED), theirs)


@torch.no_grad()
def test_a_bert_gives_bitwise_the_same_logits_with_it(make_encoder):
    encoder = make_encoder().eval()
    for mask, padded in ((PADDED, True), (torch.ones_like(PADDED), False)):
        theirs = encoder(input_ids=IDS, attention_mask=mask).logits
        for dtype in (None, torch.float32):
            ours = encoder(input_ids=IDS, attention_mask=encoder_mask(encoder, mask, padded, dtype)).logits
            assert torch.equal(ours, theirs)
    assert encoder_mask(encoder, PADDED, padded=False) is None


def test_the_additive_mask_is_that_of_bools_and_takes_no_square_of_the_length():
    mask = additive_mask(PADDED, torch.bfloat16)
    assert mask.dtype == torch.bfloat16 and torch.equal(mask == 0, square_mask(PADDED)) and mask.stride(2) == 0
    assert (mask[~square_mask(PADDED)] == -torch.inf).all()


@pytest.mark.parametrize("kind", ["esm", "roberta", "modernbert"])
def test_an_encoder_that_may_do_more_with_its_mask_gets_it_as_it_is(save_encoder, kind):
    encoder = AutoModelForMaskedLM.from_pretrained(save_encoder(kind))
    assert encoder_mask(encoder, PADDED, padded=True) is PADDED
    assert encoder_mask(encoder, PADDED, padded=False) is PADDED


def test_a_bert_with_other_attention_than_sdpa_makes_its_own_mask(make_encoder):
    encoder = make_encoder()
    encoder.set_attn_implementation("eager")
    assert encoder_mask(encoder, PADDED, padded=True) is PADDED
