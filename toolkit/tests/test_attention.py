"""Localising attention watches a UNet without changing what it predicts."""

import torch

from toolkit.models import TINY
from toolkit.models.family import new_unet
from toolkit.train.attention import Localisation


def test_recording_changes_no_prediction_and_one_map_comes_from_each_cross_attention():
    torch.manual_seed(0)
    unet = new_unet(TINY).eval()
    inputs = torch.randn(2, 4, 16, 16), torch.tensor([10.0, 800.0]), torch.randn(2, 77, TINY.width)
    plain = unet(*inputs).sample
    watched = Localisation(unet)
    assert torch.allclose(unet(*inputs).sample, plain, atol=1e-5)
    assert len(watched.maps) == sum("attn2" in name for name in unet.attn_processors)
    for attention in watched.maps:
        assert torch.allclose(attention.sum(-1), torch.ones(attention.shape[:2]), atol=1e-5)
    watched.maps.clear()
    with torch.no_grad():  # sampling needs no maps
        assert torch.allclose(unet(*inputs).sample, plain, atol=1e-5)
    assert not watched.maps


def test_loss_is_low_when_a_token_is_looked_at_inside_its_mask_only():
    watched = Localisation(new_unet(TINY))
    masks = torch.zeros(1, 4, 4, 4)
    masks[0, 0, :2] = 1  # the upper half is subject 0's
    positions = torch.tensor([[5, -1, -1, -1]])
    attention = torch.zeros(1, 16, 77)
    attention[0, :8, 5], attention[0, 8:, 0] = 1, 1
    watched.maps.append(attention)
    assert watched.loss(masks, positions) == -1
    assert not watched.maps
    watched.maps.append(attention.flip(1))
    assert watched.loss(masks, positions) == 1
    watched.maps.append(attention)
    assert watched.loss(masks, torch.full((1, 4), -1)) == 0
    watched.maps.append(attention)
    assert watched.loss(torch.zeros(1, 4, 4, 4), positions) == 0  # cropped out of the picture


def test_the_loss_teaches_the_unet_and_not_the_states():
    unet = new_unet(TINY)
    watched = Localisation(unet)
    states = torch.randn(1, 77, TINY.width, requires_grad=True)
    unet(torch.randn(1, 4, 16, 16), torch.tensor([500.0]), states)
    masks = torch.zeros(1, 4, 16, 16)
    masks[0, 0, 4:12, 4:12] = 1
    # only the first cross-attention: later ones see the states through what earlier ones mixed in
    del watched.maps[1:]
    watched.loss(masks, torch.tensor([[3, -1, -1, -1]])).backward()
    assert states.grad is None or states.grad.abs().max() == 0
    assert unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_q.weight.grad.abs().max() > 0


def test_gradient_checkpointing_changes_no_gradient_of_the_loss():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        unet = new_unet(TINY).train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        watched = Localisation(unet)
        noise = unet(torch.randn(1, 4, 16, 16), torch.tensor([500.0]), torch.randn(1, 77, TINY.width)).sample
        masks = torch.zeros(1, 4, 16, 16)
        masks[0, 0, 4:12, 4:12] = 1
        (noise.square().mean() + watched.loss(masks, torch.tensor([[3, -1, -1, -1]]))).backward()
        gradients.append({name: p.grad for name, p in unet.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name
