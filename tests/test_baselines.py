"""Baselines against the models of their own packages, with random weights; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from vjepa_lab import baselines
from vjepa_lab.batch import Grid
from vjepa_lab.data.transforms import MEAN, STD, normalize
from vjepa_lab.features import FrozenEncoder

SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def film(frames: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, frames, side, side), dtype=torch.uint8, generator=generator)


def saved(model, folder: Path, **processor) -> str:
    """A folder as ``save_pretrained`` and the model's preprocessor leave it, with weights far from initialisation."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(folder)
    statistics = {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics | processor))
    return str(folder)


@pytest.fixture(scope="module")
def vit() -> baselines.TimmFrames:
    return baselines.of_timm("vit_tiny_patch16_224", crop=32, pretrained=False)


def test_a_timm_model_sees_frame_by_frame_in_its_own_scale_of_pixels(vit):
    encoder = FrozenEncoder(encoder=vit)
    clip = film(3, 32)
    tokens, grid = encoder.tokens(clip)
    assert grid == Grid(3, 2, 2)
    assert vit.statistics.mean == (0.5, 0.5, 0.5)  # not ImageNet's
    for frame in range(3):
        pixels = (clip[:, :, frame].float() / 255 - 0.5) / 0.5
        direct = vit.model.forward_features(pixels)[:, 1:]  # without the class token
        torch.testing.assert_close(tokens[:, frame * 4 : frame * 4 + 4], direct, atol=1e-5, rtol=0)
    from_floats = encoder.tokens(normalize(clip)).tokens
    torch.testing.assert_close(from_floats, tokens, atol=1e-4, rtol=0)


def test_taps_of_a_timm_model_go_through_its_final_norm(vit):
    encoder, clip, seen = FrozenEncoder(encoder=vit), film(2, 32), {}
    hook = vit.model.blocks[4].register_forward_hook(lambda _m, _i, out: seen.update(out=out))
    tapped = encoder.taps(clip, [4, vit.depth - 1])
    hook.remove()
    inner = vit.model.norm(seen["out"])[:, 1:].reshape(2, 8, -1)
    torch.testing.assert_close(tapped[4].tokens, inner, atol=1e-5, rtol=0)
    assert torch.equal(tapped[vit.depth - 1].tokens, encoder.tokens(clip).tokens)


def test_a_convolutional_model_gives_a_grid_for_each_stage():
    opened = baselines.of_timm("resnet10t", pretrained=False)
    encoder, clip = FrozenEncoder(encoder=opened), film(2, 64)
    tokens, grid = encoder.tokens(clip)
    direct = opened.model.forward_features(normalize(clip)[:, :, 1])  # (B, 512, 2, 2)
    assert (encoder.width, grid) == (512, Grid(2, 2, 2))
    torch.testing.assert_close(tokens[:, 4:], direct.flatten(2).transpose(1, 2), atol=1e-5, rtol=0)
    assert encoder.taps(clip, [1])[1].grid == Grid(2, 16, 16)


def test_timm_refuses_unknown_names_and_other_sizes(vit):
    with pytest.raises(ValueError, match=r"no model is named 'resnet10x'; did you mean '\w+'\?"):
        baselines.of_timm("resnet10x", pretrained=False)
    with pytest.raises(ValueError, match="takes images of 32 x 32, got 48 x 48"):
        FrozenEncoder(encoder=vit).tokens(film(1, 48))


@pytest.mark.parametrize("registers", [0, 2])
def test_dinov2_sees_frame_by_frame_without_class_and_register_tokens(tmp_path, registers):
    kind = {"image_size": 32, "patch_size": 16, "mlp_ratio": 2, **SMALL}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(num_register_tokens=registers, **kind)
        model = transformers.Dinov2WithRegistersModel(config).eval()
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**kind)).eval()
    folder = saved(model, tmp_path, crop_size={"height": 48, "width": 48})
    encoder, clip = FrozenEncoder.of(f"hf:{folder}"), film(2, 48)
    tokens, grid = encoder.tokens(clip)
    assert (encoder.crop, encoder.depth, grid) == (48, 3, Grid(2, 3, 3))
    with pytest.raises(ValueError, match="hf: this model takes images of multiples of 16 pixels, got 40 x 40"):
        encoder.tokens(film(2, 40))
    for frame in range(2):
        direct = model(normalize(clip)[:, :, frame]).last_hidden_state[:, 1 + registers :]
        torch.testing.assert_close(tokens[:, frame * 9 : frame * 9 + 9], direct, atol=1e-5, rtol=0)
    tapped = encoder.taps(clip, [0, 2])
    torch.testing.assert_close(tapped[2].tokens, tokens, atol=1e-5, rtol=0)
    assert not torch.allclose(tapped[0].tokens, tokens)


def test_videomae_takes_clips_of_its_length_and_repeats_an_image_to_it(tmp_path):
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, tubelet_size=2, use_mean_pooling=False, **SMALL
    )
    model = transformers.VideoMAEModel(config).eval()
    encoder, clip = FrozenEncoder.of(f"hf:{saved(model, tmp_path)}"), film(4, 32)
    tokens, grid = encoder.tokens(clip)
    assert (encoder.frames, encoder.crop, grid) == (4, 32, Grid(2, 2, 2))
    direct = model(normalize(clip).transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(tokens, direct, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.taps(clip, [2])[2].tokens, tokens, atol=1e-5, rtol=0)
    repeated = clip[:, :, :1].expand(-1, -1, 4, -1, -1)
    assert torch.equal(encoder.image(clip[:, :, 0]).tokens, encoder.tokens(repeated).tokens)
    with pytest.raises(ValueError, match="takes 4 frames of 32 x 32, got 8 of 48 x 48"):
        encoder.tokens(film(8, 48))


def test_opening_a_baseline_draws_no_random_number_of_the_caller(tmp_path):
    model = transformers.Dinov2Model(transformers.Dinov2Config(image_size=32, patch_size=16, mlp_ratio=2, **SMALL))
    folder = saved(model, tmp_path)
    before = torch.get_rng_state()
    FrozenEncoder.of(f"hf:{folder}")
    baselines.of_timm("resnet10t", pretrained=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_folders_that_do_not_say_enough_are_refused(tmp_path):
    folder = saved(transformers.Dinov2Model(transformers.Dinov2Config(image_size=32, **SMALL)), tmp_path / "a")
    (Path(folder) / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"expected preprocessor_config\.json"):
        baselines.of_huggingface(folder)
    transformers.ViTConfig(**SMALL).save_pretrained(tmp_path / "b")
    with pytest.raises(ValueError, match="got a model of type vit, expected one of videomae, dinov2"):
        baselines.of_huggingface(str(tmp_path / "b"))
    transformers.VJEPA2Config().save_pretrained(tmp_path / "c")
    with pytest.raises(ValueError, match="give it without 'hf:'"):
        baselines.of_huggingface(str(tmp_path / "c"))
    partial = saved(transformers.Dinov2Model(transformers.Dinov2Config(image_size=32, **SMALL)), tmp_path / "e")
    weights = load_file(Path(partial) / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, Path(partial) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"its file lacks, or has in another shape: layernorm\.weight$"):
        baselines.of_huggingface(partial)
    mean = transformers.VideoMAEConfig(image_size=32, num_frames=4, use_mean_pooling=True, **SMALL)
    with pytest.raises(ValueError, match="has no final norm"):
        baselines.of_huggingface(saved(transformers.VideoMAEModel(mean), tmp_path / "d"))


def test_a_missing_package_is_named(monkeypatch):
    def absent(name: str):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(baselines.importlib, "import_module", absent)
    with pytest.raises(ValueError, match="transformers is not installed: pip install transformers"):
        baselines.of_huggingface("facebook/dinov2-small")
