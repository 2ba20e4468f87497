"""Frozen features: equal to direct calls of the networks and to plain loops; nothing of the caller's is touched."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.data.transforms import normalize
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor
from vjepa_lab.tokens import window_starts

WIDTH, DEPTH = 24, 4


def network(**changes) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(**{"width": WIDTH, "depth": DEPTH, "heads": 2, "patch": 8, "drop_path": 0.5, **changes})
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return encoder


def forecaster(**changes) -> Predictor:
    torch.manual_seed(1)
    predictor = Predictor(**{"encoder_width": WIDTH, "width": 12, "depth": 2, "heads": 2, "mask_tokens": 2, **changes})
    for p in predictor.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return predictor


def frozen(**changes) -> FrozenEncoder:
    return FrozenEncoder(encoder=network(**changes), predictor=forecaster(), frames=4, crop=16)


def newer(**changes) -> FrozenEncoder:
    """V-JEPA 2.1: four levels, image branch, dense predictor."""
    encoder = network(levels=(0, 1, 2, 3), images=True)
    predictor = forecaster(**{"levels": 4, "images": True, "dense": True, **changes})
    return FrozenEncoder(encoder=encoder, predictor=predictor, frames=4, crop=16)


def film(frames: int = 4, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (batch, 3, frames, 16, 24), dtype=torch.uint8, generator=generator)


def test_tokens_are_those_of_the_network_for_bytes_and_for_normalised_floats():
    direct = network().eval()(normalize(film()))
    tokens, grid = frozen().tokens(film())
    assert torch.equal(tokens, direct)
    assert grid == Grid(2, 2, 3)
    assert torch.equal(frozen().tokens(normalize(film())).tokens, direct)


def test_nothing_trains_nothing_drops_and_no_random_number_is_drawn():
    encoder = frozen()
    outer = torch.nn.Sequential(encoder).train()
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in outer.parameters())
    before = torch.get_rng_state()
    tokens = encoder.tokens(film()).tokens
    future = encoder.future(film(), seconds=0, fps=8)
    assert torch.equal(encoder.tokens(film()).tokens, tokens)  # although the network has stochastic depth
    assert not tokens.requires_grad
    assert not future.predicted.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    head = torch.nn.Linear(WIDTH, 1)
    head(tokens).sum().backward()  # features are ordinary tensors to what is trained on them
    assert head.weight.grad is not None


def test_taps_are_those_of_the_network_and_the_last_is_the_output():
    direct = network().eval()(normalize(film()), taps=(1, 3))[1]
    tapped = frozen().taps(film(), (1, 3))
    assert list(tapped) == [1, 3]
    assert all(torch.equal(tapped[i].tokens, direct[i]) for i in tapped)
    assert torch.equal(tapped[3].tokens, frozen().tokens(film()).tokens)
    assert not torch.equal(tapped[1].tokens, tapped[3].tokens)
    with pytest.raises(ValueError, match=r"layers: expected blocks in 0\.\.3, got \[4\]"):
        frozen().taps(film(), [4])


def test_pooled_is_the_average_of_the_tokens():
    encoder = frozen()
    tokens = encoder.tokens(film()).tokens
    torch.testing.assert_close(encoder.pooled(film()), tokens.mean(1))
    torch.testing.assert_close(encoder.pooled(film(), "tubelet")[:, 1], tokens[:, 6:].mean(1))


def test_a_single_image_is_the_clip_of_the_repeated_frame():
    encoder, image = frozen(), film()[:, :, 0]
    for frames, shown in ((None, 2), (4, 4)):
        repeated = torch.stack([image] * shown, 2)
        tokens, grid = encoder.image(image, frames=frames)
        assert torch.equal(tokens, encoder.tokens(repeated).tokens)
        assert grid == Grid(shown // 2, 2, 3)
    assert torch.equal(encoder.tokens(image.unsqueeze(2)).tokens, encoder.image(image).tokens)
    with pytest.raises(ValueError, match=r"images: expected \(B, 3, H, W\), got \(2, 3, 4, 16, 24\)"):
        encoder.image(film())


def test_an_image_goes_through_the_image_branch_where_there_is_one():
    encoder, image = newer(), film()[:, :, 0]
    direct = network(levels=(0, 1, 2, 3), images=True).eval()(normalize(image.unsqueeze(2)))
    tokens, grid = encoder.image(image)
    assert torch.equal(tokens, direct)
    assert grid == Grid(1, 2, 3)
    assert not torch.allclose(tokens, encoder.image(image, frames=2).tokens)  # the video branch


def test_a_clip_shorter_than_a_tubelet_holds_its_last_frame():
    encoder = frozen(tubelet=4)
    clip = film(frames=3)
    held = torch.cat((clip, clip[:, :, -1:]), 2)
    assert torch.equal(encoder.tokens(clip).tokens, encoder.tokens(held).tokens)


def test_views_are_encoded_one_by_one_and_joined():
    clips = film(batch=6).unflatten(0, (2, 3))
    encoder = frozen()
    joined, mean = encoder.views(clips), encoder.views(clips, join="mean")
    for b in range(2):
        alone = [encoder.tokens(clips[b, v][None]).tokens[0] for v in range(3)]
        torch.testing.assert_close(joined[b], torch.cat(alone), atol=1e-5, rtol=0)
        torch.testing.assert_close(mean[b], sum(alone) / 3, atol=1e-5, rtol=0)


@pytest.mark.parametrize("last", ["shift", "hold", "drop"])
@pytest.mark.parametrize(("total", "stride"), [(11, 4), (11, 3), (3, 4)])
def test_windows_of_a_long_video_are_encoded_one_by_one(last, total, stride):
    video, encoder = film(total), frozen()
    tokens, starts, grid = encoder.windows(video, stride=stride, last=last, batch=3)
    assert starts == window_starts(total, 4, stride, last)
    assert grid == Grid(2, 2, 3)
    assert tokens.shape == (2, len(starts), 12, WIDTH)
    for b in range(2):
        for w, start in enumerate(starts):
            frames = [video[b, :, min(start + i, total - 1)] for i in range(4)]
            alone = encoder.tokens(torch.stack(frames, 1)[None]).tokens[0]
            torch.testing.assert_close(tokens[b, w], alone, atol=1e-5, rtol=0)
    means = encoder.windows(video, stride=stride, last=last, pool="mean").tokens
    torch.testing.assert_close(means, tokens.mean(2), atol=1e-5, rtol=0)


def test_future_tokens_are_those_of_a_direct_call_of_the_predictor():
    encoder, clip = frozen(), film(frames=8)  # 4 tubelets of 6 tokens
    future = encoder.future(clip, seconds=torch.tensor([0.5, 1.0]), fps=8, tubelets=2, mask_token=1)
    context = network().eval()(normalize(clip))
    ids = torch.stack([torch.arange(24 + 2 * 6, 24 + 4 * 6), torch.arange(24 + 4 * 6, 24 + 6 * 6)])
    direct = forecaster().eval()(context, torch.arange(24).expand(2, -1), ids, Grid(40, 2, 3), 1)
    assert torch.equal(future.ids, ids)
    assert torch.equal(future.context, context)
    torch.testing.assert_close(future.predicted, direct, atol=1e-6, rtol=0)
    other = encoder.future(clip, seconds=torch.tensor([0.5, 1.0]), fps=8, tubelets=2)
    assert not torch.allclose(other.predicted, future.predicted)  # mask token 0 is the default


def test_one_second_ahead_of_32_frames_at_8_fps_is_tubelet_20():
    encoder = FrozenEncoder(encoder=network(), predictor=forecaster())
    ids = encoder.future(film(frames=32, batch=1), seconds=1.0, fps=8).ids
    assert torch.equal(ids[0], torch.arange(20 * 6, 21 * 6))


def test_several_steps_slide_the_context_and_keep_positions():
    encoder, clip = frozen(), film()
    future = encoder.future(clip, seconds=0.25, fps=8, steps=3)
    context, predictor = network().eval()(normalize(clip)), forecaster().eval()
    ids, said = torch.arange(12 + 6, 12 + 12).expand(2, -1), []
    for _ in range(3):
        said.append(predictor(context, torch.arange(12).expand(2, -1), ids, Grid(4, 2, 3)))
        context = torch.cat((context[:, 6:], said[-1]), 1)
    torch.testing.assert_close(future.predicted, torch.cat(said, 1), atol=1e-5, rtol=0)


def test_vjepa21_reads_and_predicts_levels_and_gives_the_last():
    encoder, clip = newer(), film()
    future = encoder.future(clip, seconds=0, fps=8)
    levels = network(levels=(0, 1, 2, 3), images=True).eval()(normalize(clip), levels=True)
    predictor = forecaster(levels=4, images=True, dense=True).eval()
    ids = torch.arange(12, 18).expand(2, -1)
    direct = predictor(levels, torch.arange(12).expand(2, -1), ids, Grid(3, 2, 3))[0]
    assert future.predicted.shape == (2, 6, WIDTH)
    torch.testing.assert_close(future.predicted, direct[..., 3 * WIDTH :], atol=1e-6, rtol=0)
    torch.testing.assert_close(future.context, encoder.tokens(clip).tokens, atol=1e-6, rtol=0)
    assert encoder.future(clip, seconds=0, fps=8, steps=2).predicted.shape == (2, 12, WIDTH)


def test_a_distilled_predictor_gives_its_last_channels_and_one_step_only():
    encoder, clip = newer(levels=1, out_width=40), film()
    future = encoder.future(clip, seconds=0, fps=8)
    context = encoder.tokens(clip).tokens
    predictor = forecaster(levels=1, out_width=40, images=True, dense=True).eval()
    ids = torch.arange(12, 18).expand(2, -1)
    direct = predictor(context, torch.arange(12).expand(2, -1), ids, Grid(3, 2, 3))[0]
    torch.testing.assert_close(future.predicted, direct[..., 40 - WIDTH :], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="reads features of width 24 and gives 40: expected steps=1, got 2"):
        encoder.future(clip, seconds=0, fps=8, steps=2)


def test_half_precision_gives_float32_features_near_the_exact_ones():
    exact = frozen().tokens(film()).tokens
    half = FrozenEncoder(encoder=network(), predictor=forecaster(), dtype=torch.bfloat16)
    tokens = half.tokens(film()).tokens
    assert tokens.dtype == half.future(film(), seconds=0, fps=8).predicted.dtype == torch.float32
    assert 0 < (tokens - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_what_cannot_be_encoded_says_why():
    encoder = frozen()
    with pytest.raises(ValueError, match=r"clip: expected \(B, 3, F, H, W\), got \(3, 4, 16, 24\)"):
        encoder.tokens(film()[0])
    for cut in (film()[:, :, :3], film()[..., :20]):  # the end would not be seen
        with pytest.raises(ValueError, match="clip: expected multiples of 2 frames x 8 x 8 pixels, got"):
            encoder.tokens(cut)
    with pytest.raises(ValueError, match=r"clip: expected \(B, 3, F, H, W\), got \(2, 3, 0, 16, 24\)"):
        encoder.tokens(film()[:, :, :0])
    with pytest.raises(ValueError, match=r"clip: expected uint8 or normalised floats, got torch\.int64"):
        encoder.tokens(film().long())
    with pytest.raises(ValueError, match="clips: expected"):
        encoder.views(film())
    with pytest.raises(ValueError, match="join: got 'max'"):
        encoder.views(film()[None], join="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without a predictor"):
        FrozenEncoder(encoder=network()).future(film(), seconds=1, fps=8)
    with pytest.raises(ValueError, match="seconds: expected 0 or more"):
        encoder.future(film(), seconds=-1, fps=8)
    with pytest.raises(ValueError, match="tubelets and steps of at least 1, got 0 and 1"):
        encoder.future(film(), seconds=1, fps=8, tubelets=0)
    with pytest.raises(ValueError, match=r"dtype: got torch\.float64"):
        FrozenEncoder(encoder=network(), dtype=torch.float64)


def test_of_opens_what_load_opens(tmp_path):
    """A file in the released layout; its sizes and features come back."""
    encoder, predictor = network(patch=16, rope="released"), forecaster(rope="released")
    prefixed = {
        name: {f"module.backbone.{key}": value for key, value in module.state_dict().items()}
        for name, module in (("encoder", encoder), ("target_encoder", encoder), ("predictor", predictor))
    }
    rest = {"opt": None, "scaler": None, "epoch": 1, "loss": 0.5, "batch_size": 2, "world_size": 1, "lr": 1e-4}
    torch.save(prefixed | rest, tmp_path / "latest.pt")
    opened = FrozenEncoder.of(str(tmp_path / "latest.pt"), heads=2, predictor_heads=2, frames=8, crop=32)
    assert (opened.width, opened.depth, opened.frames, opened.crop) == (WIDTH, DEPTH, 8, 32)
    clip = film()[..., :16]
    assert torch.equal(opened.tokens(clip).tokens, encoder.eval()(normalize(clip)))
    assert opened.future(clip, seconds=0, fps=8).predicted.shape == (2, 1, WIDTH)


def test_options_of_our_files_are_refused_for_baselines():
    with pytest.raises(ValueError, match="timm:resnet10t: heads, encoder: not for baselines"):
        FrozenEncoder.of("timm:resnet10t", heads=3, encoder="target")
