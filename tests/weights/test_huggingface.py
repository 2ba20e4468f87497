"""Folders of Hugging Face and ours hold the same numbers, and compute the same where the two agree by design."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import vjepa_lab
from vjepa_lab.batch import Grid
from vjepa_lab.config import SIZES, EncoderConfig, PredictorConfig, PretrainConfig
from vjepa_lab.jepa import build_encoder, build_predictor
from vjepa_lab.weights import parts
from vjepa_lab.weights.huggingface import _ratio, read_folder, write_folder
from vjepa_lab.weights.shapes import Asked, describe

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "mlp_ratio": 100 / 48,
    "patch_size": 8,
    "crop_size": 32,
    "frames_per_clip": 4,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
    "pred_num_mask_tokens": 3,
}
# The widths and heads of ViT-L and its predictor, two blocks of each.
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 2,
    "pred_num_hidden_layers": 2,
    "crop_size": 64,
    "frames_per_clip": 4,
}


def disturbed(module):
    """Random weights of which none is zero or one by initialisation."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return module.eval()


def theirs(kind="VJEPA2Model", **fields):
    return disturbed(getattr(transformers, kind)(transformers.VJEPA2Config(**fields)))


def ours(**fields):
    config = PretrainConfig(encoder=EncoderConfig(rope="released", **fields.pop("encoder")), **fields)
    return config, disturbed(build_encoder(config.encoder)), disturbed(build_predictor(config))


def write_ours(folder, config, encoder, predictor):
    write_folder(folder, {"encoder": encoder.state_dict(), "predictor": predictor.state_dict()}, config)


def clip_of(model, *, frames=None, height=None, width=None):
    config = model.config
    torch.manual_seed(1)
    size = (frames or config.frames_per_clip, 3, height or config.crop_size, width or config.crop_size)
    return torch.randn(2, *size)  # (B, F, 3, H, W), their order of axes


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture
def small(tmp_path):
    """A model of theirs and the folder that it wrote."""
    model = theirs(**SMALL)
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs"


@pytest.mark.parametrize("kind", ["VJEPA2Model", "VJEPA2ForVideoClassification"])
@pytest.mark.parametrize("shard", ["5GB", "50KB"])
def test_theirs_to_ours_to_theirs_is_bit_equal(tmp_path, kind, shard):
    model = theirs(kind, **SMALL, num_pooler_layers=2, id2label={0: "push", 1: "pull", 2: "lift"})
    model.save_pretrained(tmp_path / "a", max_shard_size=shard)
    assert (tmp_path / "a/model.safetensors.index.json").exists() == (shard == "50KB")
    read = read_folder(tmp_path / "a")
    config = describe(read, "encoder", Asked()).config
    write_folder(tmp_path / "b", read.networks, config, labels=read.facts.get("labels", ()))
    assert equal(load_file(tmp_path / "b/model.safetensors"), dict(model.state_dict()))
    again, loading = type(model).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(loading.values()), "nothing is missing, in excess or of another shape"
    assert equal(dict(again.state_dict()), dict(model.state_dict()))
    told = {*SMALL, "id2label", "num_pooler_layers"} if kind != "VJEPA2Model" else {*SMALL}
    assert {k: getattr(again.config, k) for k in told} == {k: getattr(model.config, k) for k in told}


def test_ours_to_theirs_to_ours_is_bit_equal(tmp_path):
    config, encoder, predictor = ours(
        encoder={"size": "tiny", "width": 48, "depth": 3, "heads": 3, "mlp_width": 92, "crop": 48, "frames": 6},
        predictor=PredictorConfig(width=24, depth=2, heads=2, mask_tokens=2),
    )
    write_ours(tmp_path / "a", config, encoder, predictor)
    transformers.VJEPA2Model.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    for folder in ("a", "b"):
        loaded = vjepa_lab.load(tmp_path / folder)
        assert equal(loaded.encoder.state_dict(), encoder.state_dict())
        assert equal(loaded.predictor.state_dict(), predictor.state_dict())
        got, size = loaded.config, config.encoder.resolved()
        assert got.encoder.resolved() == size
        assert (got.encoder.crop, got.encoder.frames, got.encoder.rope) == (48, 6, "released")
        assert got.predictor == config.predictor


@pytest.mark.parametrize("fields", [SMALL, LARGE], ids=["small", "large"])
def test_outputs_are_equal_on_square_clips_of_the_configured_size(tmp_path, fields):
    model = theirs(**fields)
    model.save_pretrained(tmp_path / "a")
    loaded = vjepa_lab.load(tmp_path / "a")
    clip = clip_of(model)
    grid = Grid(2, *(model.config.crop_size // model.config.patch_size,) * 2)
    order = torch.stack([torch.randperm(grid.n) for _ in range(2)])
    context, target = order[:, : grid.n // 2].contiguous(), order[:, grid.n // 2 :].contiguous()
    with torch.inference_mode():
        expected = model(clip, context_mask=[context], target_mask=[target])
        features = loaded.encoder(clip.transpose(1, 2))
        seen = torch.gather(features, 1, context.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
        predicted = loaded.predictor(seen, context, target, grid, mask_token=1)  # theirs has no choice
    assert torch.allclose(features, expected.last_hidden_state, atol=1e-5)
    assert torch.allclose(predicted, expected.predictor_output.last_hidden_state, atol=1e-5)


def test_outputs_of_our_weights_are_equal_there(tmp_path):
    config, encoder, predictor = ours(
        encoder={"size": "large", "depth": 2, "crop": 64, "frames": 4}, predictor=PredictorConfig(depth=2)
    )
    write_ours(tmp_path / "a", config, encoder, predictor)
    model = transformers.VJEPA2Model.from_pretrained(tmp_path / "a")
    clip = clip_of(model)
    with torch.inference_mode():
        expected = model(clip)
        features = encoder(clip.transpose(1, 2))
        ids = torch.arange(features.shape[1]).expand(2, -1)
        predicted = predictor(features, ids, ids, Grid(2, 4, 4))  # of one mask token, theirs takes the only one
    assert torch.allclose(features, expected.last_hidden_state, atol=1e-5)
    assert torch.allclose(predicted, expected.predictor_output.last_hidden_state, atol=1e-5)


def test_the_two_differ_by_design_at_other_heights_and_widths_and_not_in_time(small):
    """Theirs counts rows and columns on the grid of ``crop_size``; ours, like the released code, on the clip's own."""
    model, folder = small
    encoder = vjepa_lab.load(folder).encoder
    gap = {}
    for name, size in {
        "longer": {"frames": 10},
        "larger": {"height": 48, "width": 48},
        "wide": {"height": 16, "width": 64},  # as many tokens as configured
    }.items():
        clip = clip_of(model, **size)
        with torch.inference_mode():
            gap[name] = (encoder(clip.transpose(1, 2)) - model.encoder(clip).last_hidden_state).abs().max().item()
    assert gap["longer"] < 1e-5
    assert min(gap["larger"], gap["wide"]) > 1e-2
    model.config.crop_size = 48  # told the size, it counts as ours does
    for layer in model.encoder.layer:
        layer.attention.grid_size = 48 // model.config.patch_size
    clip = clip_of(model)
    with torch.inference_mode():
        assert torch.allclose(encoder(clip.transpose(1, 2)), model.encoder(clip).last_hidden_state, atol=1e-5)


def test_a_classifier_gives_the_logits_of_theirs(tmp_path):
    model = theirs("VJEPA2ForVideoClassification", **SMALL, num_labels=5)
    model.save_pretrained(tmp_path / "a")
    loaded = vjepa_lab.load(tmp_path / "a")
    clip = clip_of(model)
    with torch.inference_mode():
        logits = loaded.heads[0](loaded.encoder(clip.transpose(1, 2)))
        assert torch.allclose(logits, model(clip).logits, atol=1e-5)
    assert parts.read(tmp_path / "a").facts["labels"] == [f"LABEL_{i}" for i in range(5)]


def test_the_video_processor_resizes_crops_and_normalises(tmp_path):
    config, encoder, predictor = ours(
        encoder={"size": "tiny", "depth": 1, "crop": 112}, predictor=PredictorConfig(width=24, depth=1, heads=2)
    )
    write_ours(tmp_path / "a", config, encoder, predictor)
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path / "a")
    assert processor.size["shortest_edge"] == 128
    video = torch.full((4, 3, 150, 200), 51, dtype=torch.uint8)  # (F, 3, H, W), every pixel 0.2
    out = processor(video, return_tensors="pt")["pixel_values_videos"]
    assert out.shape == (1, 4, 3, 112, 112)
    assert out[0, 0, :, 0, 0].tolist() == pytest.approx(
        [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    )


def test_mlp_ratios_give_their_widths_back():
    pairs = [(size.mlp, size.width) for size in SIZES.values()]
    pairs += [(hidden, width) for width in (24, 48, 768, 1408) for hidden in range(1, 4 * width, 7)]
    assert [(hidden, width) for hidden, width in pairs if int(width * _ratio(hidden, width)) != hidden] == []


def change(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (config | fields).items() if v is not None}))


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.attention.key.bias"]
    save_file(tensors, folder / "model.safetensors")


def add_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "encoder.layer.2.norm1.bias": torch.ones(1)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop_tensor, "1 missing: encoder.layer.1.attention.key.bias"),
        (add_tensor, "1 in excess: encoder.layer.2.norm1.bias"),
        (lambda f: change(f, num_hidden_layers=3), "16 missing: encoder.layer.2."),
        (lambda f: change(f, hidden_act="silu"), "hidden_act='silu' (expected 'gelu')"),
        (lambda f: change(f, qkv_bias=False), "qkv_bias=False"),
        (lambda f: change(f, model_type="videomae"), "model_type='videomae' (expected 'vjepa2')"),
        (lambda f: change(f, model_type=None), "no model_type"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "expected a mapping"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "no model.safetensors"),
    ],
)
def test_a_folder_that_is_not_such_a_model_says_why(small, damage, words):
    _, folder = small
    damage(folder)
    with pytest.raises(ValueError) as caught:
        read_folder(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)


def test_what_has_no_place_in_a_folder_is_not_written(tmp_path):
    config, encoder, predictor = ours(
        encoder={"size": "tiny", "depth": 1}, predictor=PredictorConfig(width=24, depth=1, heads=2)
    )
    networks = {"encoder": {**encoder.state_dict(), "pos_embed": torch.ones(1)}, "predictor": predictor.state_dict()}
    with pytest.raises(ValueError, match=r"1 in excess: encoder\.pos_embed"):
        write_folder(tmp_path / "a", networks, config)
    assert not (tmp_path / "a").exists()
