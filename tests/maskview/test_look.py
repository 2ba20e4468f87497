"""What is drawn is what a training would draw, for every strategy; figures equal counts by hand."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vjepa_lab import dist, masks
from vjepa_lab.batch import Grid, MaskPair
from vjepa_lab.config import EncoderConfig
from vjepa_lab.config_masks import MasksConfig
from vjepa_lab.data.transforms import normalize
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.jepa import build_encoder
from vjepa_lab.masks import Painted, Traced
from vjepa_lab.maskview._look import Shot, look, read, title_of, view, views
from vjepa_lab.merge import load
from vjepa_lab.registry import MASKS

SMALL = ["clip=synthetic", "frames=8", "crop=64", "draws=3"]


def config(*arguments: str) -> MasksConfig:
    return load(MasksConfig, [], [*SMALL, *arguments])


@pytest.mark.parametrize("name", MASKS.names())
def test_every_strategy_is_drawn_as_a_training_would_at_that_step(name: str) -> None:
    asked = config(f"strategy={name}", "step=7", "steps=100", "seed=3", "index=5")
    shot, seen = look(asked)
    assert shot.grid == Grid(4, 4, 4)
    clip = normalize(shot.frames[None]).expand(3, -1, -1, -1, -1)
    pairs = masks.sample([MASKS.get(name)()], shot.grid, dist.rng(3, 7, batch=3), masks.Sight(clip, 7, 100))
    assert len(seen) == len(pairs)
    for one, (context, target) in zip(seen, pairs, strict=True):
        assert (one.roles.flatten() == 1).nonzero().flatten().tolist() == context[0].tolist()
        assert (one.roles.flatten() == 2).nonzero().flatten().tolist() == target[0].tolist()
        assert one.figures.context == pytest.approx(context.shape[1] / 64)
        assert one.figures.target == pytest.approx(target.shape[1] / 64)


def test_figures_equal_counts_by_hand() -> None:
    grid = Grid(2, 1, 3)
    speed = torch.tensor([0.0, 1.0, 0.05, 0.5, 0.0, 0.0]).view(grid)
    shot = Shot("clip", torch.zeros(3, 4, 4, 12, dtype=torch.uint8), grid, 4.0, speed, speed >= 0.1, None)
    pair = MaskPair(torch.tensor([[0, 3], [0, 4]]), torch.tensor([[1, 2], [2, 5]]))
    hidden = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 1]], dtype=torch.bool).view(2, *grid)
    saliency = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0, 0.0]).view(grid).expand(2, -1, -1, -1)
    seen = view("one", {"name": "one"}, Traced(Painted(hidden, saliency=saliency), pair), shot, 0.25)
    figures = seen.figures
    assert figures.painted == pytest.approx(4 / 12)
    assert (figures.context, figures.target) == (pytest.approx(2 / 6), pytest.approx(2 / 6))
    # Token 1 is hidden in both draws, token 3 in the second; of the others 2 and 5 in both, 0 in none, 4 in the first.
    assert figures.moving == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert figures.most_moving == 1
    assert figures.still == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert figures.lift == pytest.approx(0.75 / 0.625)
    assert figures.salient == pytest.approx((3 * 1 + 1 * 0.5) / 4)
    assert figures.context_per_tubelet == pytest.approx([1 / 3, 1 / 3])
    assert figures.target_per_tubelet == pytest.approx([(2 / 3 + 1 / 3) / 2, (0 + 1 / 3) / 2])
    assert seen.often.flatten().tolist() == [0, 1, 1, 0.5, 0.5, 1]
    assert (figures.uniform, figures.static) == (0.25, False)


def test_a_clip_without_motion_says_so_and_has_no_moving_tokens() -> None:
    shot, seen = look(config("strategy=interaction_blocks,random", "world.speed=1.0e-9"))
    assert not shot.moving.any()
    assert seen[0].figures.static
    assert not seen[1].figures.static
    assert math.isnan(seen[0].figures.moving)
    assert seen[0].figures.target == pytest.approx(25 / 64)


def test_a_curriculum_is_drawn_at_its_step() -> None:
    entry = "masks=[{name: motion, mix: {probability: 0.8, start: 100, end: 200}}]"
    shares = []
    for step in (0, 150, 200):
        (seen,) = look(config(entry, f"step={step}", "steps=300"))[1]
        shares.append(seen.figures.uniform)
    assert shares == pytest.approx([1.0, 0.6, 0.2])


def test_which_tokens_are_kept_is_shown() -> None:
    few, all_ = (look(config("strategy=multiblock", f"keep={keep}", "draws=64"))[1][0] for keep in ("head", "random"))
    early, late = few.figures.target_per_tubelet[0], few.figures.target_per_tubelet[-1]
    assert early > late + 0.2
    assert max(all_.figures.target_per_tubelet) - min(all_.figures.target_per_tubelet) < 0.1


def test_features_come_from_the_encoder_and_without_one_the_mistake_is_told() -> None:
    asked = config("strategy=interaction_topk", "options.saliency=accel_feature", "draws=2")
    with pytest.raises(ValueError, match="looks at features: give an encoder, checkpoint="):
        look(asked)
    torch.manual_seed(0)
    network = build_encoder(EncoderConfig(width=48, depth=1, heads=4, frames=8, crop=64))
    encoder = FrozenEncoder(encoder=network, predictor=None, frames=8, crop=64)
    shot = read(asked, 8, 64)
    (seen,) = views(asked.entries()[0], shot, asked, encoder)
    assert seen.saliency is not None
    assert seen.saliency[1:-1].max() > 0
    assert not seen.saliency[[0, -1]].any()
    with pytest.raises(ValueError, match="set patch and tubelet"):
        views(asked.entries()[0], read(config("patch=32"), 8, 64), asked, encoder)


def test_events_of_the_simulated_world_and_of_the_user_reach_the_strategy() -> None:
    boosted = config("strategy=ia_jepa", "options.gt_boost=true", "events=[0.9]")
    shot, (seen,) = look(boosted)
    assert shot.event.tolist() == pytest.approx([3.6])  # frame 3.6 rounds to 4, of tubelet 2
    assert seen.saliency.flatten(1).sum(1).argmax() == 2
    assert look(config("strategy=ia_jepa", "options.gt_boost=true"))[0].event.shape == (1,)


def write_film(path: Path, frames: int = 24, fps: int = 8) -> Path:
    """A white square that moves to the right by two pixels per frame, on grey that is ``frame`` steps bright."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 96, "yuv420p", 4_000_000
        for n in range(frames):
            picture = np.full((96, 96, 3), 2 * n, dtype=np.uint8)
            picture[40:56, 4 + 2 * n : 20 + 2 * n] = 255
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        out.mux(stream.encode())
    return path


def test_a_part_of_a_video_is_read_at_the_rate_that_is_asked_for(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4")
    asked = load(MasksConfig, [], [f"clip={film}", "fps=4", "start=1.0", "strategy=motion", "draws=1"])
    shot = read(asked, 4, 96)
    assert shot.name == "film.mp4"
    assert shot.frames.shape == (3, 4, 96, 96)
    corner = shot.frames[0, :, 1, 1].tolist()  # frames 8 to 23 hold the clip of 1.5 seconds in their middle
    assert corner == pytest.approx([2 * n for n in (12, 14, 16, 18)], abs=6)
    assert shot.moving.any()
    assert not shot.moving.all()


def test_a_file_that_gives_no_clip_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    asked = load(MasksConfig, [], [f"clip={tmp_path / 'no.mp4'}", "strategy=motion"])
    with pytest.raises(ValueError, match=r"clip: .*no\.mp4"):
        look(asked)


def test_a_title_names_what_is_set() -> None:
    assert title_of({"name": "motion", "budget": 0.3, "mix": {"end": 5}}) == "motion, budget 0.3, mix.end 5"
