# /// script
# dependencies = ["vjepa_lab"]
# ///
"""Where the masks land, and what they cost.

    python tools/bench/masks.py targeting --films 40
    python tools/bench/masks.py cost --size 128 --batch 4

``targeting``: on films of colliding discs (``targeting.py``), how well each saliency map tells collisions from motion,
and what each strategy hides of both, with a camera at rest and with one that pans by a pixel per frame.

``cost``: the time to sample each strategy's masks, as a share of the training step that follows: forward, backward,
AdamW and moving average of the preset ``cpu-small`` of ``step.py``, under one mask that hides 40 %. Strategies and the
step take turns; figures are processor time, medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, NamedTuple

import step as training
import targeting
import torch
from torch import Tensor

from vjepa_lab import dist, masks
from vjepa_lab.batch import Grid
from vjepa_lab.config import PretrainConfig
from vjepa_lab.jepa import build_jepa
from vjepa_lab.masks._saliency import KINDS, MapOptions, saliency
from vjepa_lab.merge import load
from vjepa_lab.registry import MASKS


class Map(NamedTuple):
    """A row of the table of maps."""

    title: str
    kind: str
    options: MapOptions


MAPS = [
    *(Map(kind, kind, MapOptions()) for kind in KINDS if kind not in ("accel_feature", "accel_lowpass")),
    *(Map(f"accel_lowpass, sigma {sigma:g}", "accel_lowpass", MapOptions(sigma=sigma)) for sigma in (2.0, 4.0, 8.0)),
    Map("accel_matching, half resolution", "accel_matching", MapOptions(shrink=2)),
]

STRATEGIES: dict[str, dict[str, Any]] = {
    "random 40 %": {"name": "random", "ratio": 0.4},
    "tube 40 %": {"name": "tube", "ratio": 0.4},
    "multiblock 8 x .15": {"name": "multiblock", "blocks": 8, "scale": 0.15},
    "multiblock 2 x .7": {"name": "multiblock", "blocks": 2, "scale": 0.7},
    "future": {"name": "future"},
    "motion": {"name": "motion"},
    "motion, compensated": {"name": "motion", "compensate": True},
    "ia_jepa": {"name": "ia_jepa"},
    "interaction_topk, accel_official": {"name": "interaction_topk", "saliency": "accel_official"},
    "interaction_topk, accel_pixel": {"name": "interaction_topk"},
    "interaction_topk, accel_matching": {"name": "interaction_topk", "saliency": "accel_matching"},
    "the same, top 10 %": {"name": "interaction_topk", "saliency": "accel_matching", "budget": 0.1},
    "top 10 % of accel_pixel": {"name": "interaction_topk", "budget": 0.1},
    "interaction_multiblock": {"name": "interaction_multiblock"},
    "interaction_blocks": {"name": "interaction_blocks"},
    "interaction_blocks, no floor": {"name": "interaction_blocks", "floor": 0.0},
    "interaction_blocks, floor uncompensated": {"name": "interaction_blocks", "compensate_global": False},
    "interaction_blocks, random fill": {"name": "interaction_blocks", "fill": "random"},
    "interaction_blocks, budget 60 %": {"name": "interaction_blocks", "budget": 0.6},
    "interaction_blocks, accel_pixel": {"name": "interaction_blocks", "saliency": "accel_pixel"},
}


def normalised(frames: Tensor) -> Tensor:
    """Frames (B, 3, F, H, W) in [0, 1] as an encoder gets them."""
    mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (frames - mean) / std


def hidden_by(entry: dict[str, Any], films: list[targeting.Film], step: int = 0) -> list[Tensor]:
    """What a strategy hides of every film, bool (t, h, w)."""
    clip = normalised(torch.stack([film.frames for film in films]))
    grid = targeting.grid_of(films[0])
    painted = MASKS.build(entry).paint(grid, dist.rng(0, step, batch=len(films)), masks.Sight(clip))[0]
    return list(painted.hidden)


def table_of_maps(films: list[targeting.Film]) -> dict[str, targeting.Targeting]:
    """Title of the map -> figures."""
    frames, grid = torch.stack([film.frames for film in films]), targeting.grid_of(films[0])
    return {m.title: targeting.target(list(saliency(m.kind, frames, grid, m.options)), films) for m in MAPS}


def table_of_masks(films: list[targeting.Film]) -> dict[str, targeting.Coverage]:
    """Title of the strategy -> figures."""
    return {title: targeting.cover(hidden_by(entry, films), films) for title, entry in STRATEGIES.items()}


def print_targeting(count: int) -> None:
    for pan, patch in ((0, 8), (0, 16), (1, 8)):
        films = targeting.films(count, pan=pan, patch=patch)
        moving = statistics.mean(film.moving.float().mean().item() for film in films)
        print(f"\npan {pan} px/frame, tokens of {patch} px, {count} films, {moving:.0%} of the tokens moving\n")
        print("| map | AUC | precision | event-time AUC |\n|---|---|---|---|")
        for title, row in table_of_maps(films).items():
            print(f"| {title} | {row.auc:.3f} | {row.precision:.3f} | {row.event_auc:.3f} |")
        print("\n| mask | ratio | P(hidden, int) | P(hidden, mov) | lift | moving visible (least) | before visible |")
        print("|---|---|---|---|---|---|---|")
        for title, row in table_of_masks(films).items():
            print(
                f"| {title} | {row.ratio:.2f} | {row.interacting:.2f} | {row.bystanding:.2f} | {row.lift:.2f} "
                f"| {row.visible:.2f} ({row.least_visible:.2f}) | {row.before:.2f} |"
            )


def print_cost(size: int, batch: int, rounds: int) -> None:
    changes = [*training.PRESETS["cpu-small"].changes, f"encoder.crop={size}", f"data.batch={batch}"]
    config = load(PretrainConfig, [], [*changes, "masks=[{name: random, ratio: 0.4}]"])
    inputs = training.Inputs(config, torch.device("cpu"))
    torch.manual_seed(0)
    step = training.our_step(config, build_jepa(config).train())
    grid: Grid = inputs.grid
    strategies = {title: MASKS.build(entry) for title, entry in STRATEGIES.items()}
    films = [targeting.make(i, pan=0, patch=16, size=size, frames=16, seed=1) for i in range(batch)]
    sight = masks.Sight(normalised(torch.stack([film.frames for film in films])))
    seconds: dict[str, list[float]] = {title: [] for title in ("step", *strategies)}
    for i in range(rounds + 1):
        clip, pairs = inputs(i)
        for title, strategy in strategies.items():
            rng = dist.rng(0, i, batch=batch)
            seconds[title].append(_timed(lambda s=strategy, r=rng: masks.sample([s], grid, r, sight)))
        seconds["step"].append(_timed(lambda c=clip, p=pairs: step(c, p)))
    medians = {title: statistics.median(values[1:]) / batch for title, values in seconds.items()}
    print(f"\n16 x {size} x {size}, batch {batch}, step {1e3 * medians['step']:.0f} ms of processor time per clip\n")
    print("| mask | ms per clip | share of the step |\n|---|---|---|")
    for title in strategies:
        print(f"| {title} | {1e3 * medians[title]:.1f} | {medians[title] / medians['step']:.1%} |")


def _timed(work: Any) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Where masks land, and what they cost.")
    parser.add_argument("what", choices=["targeting", "cost"])
    parser.add_argument("--films", type=int, default=40)
    parser.add_argument("--size", type=int, default=128, help="pixels per side, for cost")
    parser.add_argument("--batch", type=int, default=4, help="for cost")
    parser.add_argument("--rounds", type=int, default=3, help="for cost, after one that is not counted")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {training.machine(torch.device('cpu'))}, {args.threads} thread(s)")
    if args.what == "targeting":
        print_targeting(args.films)
    else:
        print_cost(args.size, args.batch, args.rounds)


if __name__ == "__main__":
    main()
