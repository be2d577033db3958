"""The networks' contract, on real classes at tiny size."""

import pytest
import torch

from toolkit.data.captions import person_nouns
from toolkit.data.samples import SCENES, make_sample
from toolkit.models import MINI, TINY, SubjectFuser, load, new_family, save
from toolkit.models.tokenizer import VOCABULARY
from toolkit.reference.prompt import encode


@pytest.fixture(scope="module")
def family():
    return new_family(seed=3, preset=TINY)


def test_shapes_of_all_networks(family):
    width = TINY.width
    ids = torch.tensor([encode(family.tokenizer, "a woman <|image|> in the snow").input_ids] * 2)
    states = family.text_encoder(ids).last_hidden_state
    assert states.shape == (2, 77, width)
    embeds = family.image_encoder(torch.zeros(3, 3, 64, 64)).image_embeds
    assert embeds.shape == (3, width)
    slots = torch.zeros(2, 4, width)
    augmented = family.subject_fuser(states, slots, torch.full((2, 4), -1))
    latents = torch.zeros(2, 4, 16, 16)
    timesteps = torch.tensor([1.0, 981.0])  # one a row
    for unet in (family.unet_tdm, family.unet_sdm):
        assert unet(latents, timesteps, augmented).sample.shape == latents.shape
    assert family.vae.decode(latents).shape == (2, 3, 128, 128)
    assert family.vae.encode(torch.zeros(2, 3, 128, 128)).mode().shape == latents.shape


def test_mini_has_the_documented_dimensions():
    assert (MINI.width, MINI.max_length, MINI.max_subjects, MINI.latent_size) == (128, 77, 4, 16)


def test_fuser_follows_the_written_formula_and_leaves_other_tokens_alone():
    torch.manual_seed(0)
    fuser = SubjectFuser(8).eval()
    states, embeds = torch.randn(2, 77, 8), torch.randn(2, 4, 8)
    positions = torch.tensor([[2, 6, -1, -1], [-1, -1, -1, -1]])
    out = fuser(states, embeds, positions)
    for row, slot, position in ((0, 0, 2), (0, 1, 6)):
        s, e = states[row, position], embeds[row, slot]
        h = fuser.mlp1.fc2(torch.nn.functional.gelu(fuser.mlp1.fc1(fuser.mlp1.layernorm(torch.cat([s, e]))))) + s
        y = fuser.mlp2.fc2(torch.nn.functional.gelu(fuser.mlp2.fc1(fuser.mlp2.layernorm(h)))) + h
        assert torch.allclose(out[row, position], fuser.layer_norm(y), atol=1e-6)
    untouched = torch.ones(77, dtype=torch.bool)
    untouched[[2, 6]] = False
    assert torch.equal(out[0, untouched], states[0, untouched])
    assert torch.equal(out[1], states[1])


def test_a_family_comes_back_from_disk(family, tmp_path):
    save(family, tmp_path)
    back = load(tmp_path)
    assert back.preset == TINY and back.config["scaling_factor"] == family.config["scaling_factor"]
    for name, network in family.networks().items():
        theirs = back.networks()[name].state_dict()
        for key, value in network.state_dict().items():
            assert torch.equal(value, theirs[key]), f"{name}.{key}"
    text = "A woman <|image|>, 42 cats & naïve 🙂!"
    assert back.tokenizer(text)["input_ids"] == family.tokenizer(text)["input_ids"]
    assert len(family.tokenizer) == VOCABULARY + 1


def test_markers_of_captions_point_at_the_persons_noun(family):
    nouns = set(person_nouns())
    for index in range(40):
        sample = make_sample(SCENES, "train", index)
        prompt = encode(family.tokenizer, sample.caption)
        words = [family.tokenizer.convert_ids_to_tokens(prompt.input_ids[p]) for p in prompt.positions]
        assert len(words) == len(sample.subjects)
        assert {w.removesuffix("</w>") for w in words} <= nouns
        assert len(prompt.input_ids) == 77 and max(prompt.input_ids) < VOCABULARY
