# /// script
# dependencies = ["vjepa_lab"]
# ///
"""Where the masks land, and what they cost.

    python tools/bench/masks.py targeting --films 40
    python tools/bench/masks.py cost --size 128 --batch 4 --models tiny small

``targeting``: on films of colliding discs (``targeting.py``), how well each saliency map tells collisions from motion,
and what each strategy hides of both, with a camera at rest, with noise, and with one that pans by a pixel per frame.

``cost``: the time to sample each strategy's masks, as a share of the training step that follows: forward, backward,
AdamW and moving average, float32, under one mask that hides 40 %, of encoders of the sizes in ``--models`` with the
default predictor (384 x 12), or of configuration files (of 16 frames and ``--size`` pixels). Strategies and steps take
turns; figures are processor time, medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import step as training
import targeting
import torch
from torch import Tensor

from vjepa_lab import dist, masks
from vjepa_lab.config import SIZES, PretrainConfig
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
    for pan, patch, noise in ((0, 8, 0.0), (0, 16, 0.0), (1, 8, 0.0), (0, 8, 0.02)):
        films = [_noisy(i, film, noise) for i, film in enumerate(targeting.films(count, pan=pan, patch=patch))]
        moving = statistics.mean(film.moving.float().mean().item() for film in films)
        print(
            f"\npan {pan} px/frame, noise {noise:g}, tokens of {patch} px, {count} films, {moving:.0%} of the tokens "
            "moving\n\n| map | AUC | AUC, walls left out | precision | event-time AUC |\n|---|---|---|---|---|"
        )
        for title, row in table_of_maps(films).items():
            print(
                f"| {title} | {row.auc:.3f} | {row.free_auc:.3f} | {row.precision:.3f} | {row.event_auc:.3f} |",
                flush=True,
            )
        print("\n| mask | ratio | P(hidden, int) | P(hidden, mov) | lift | moving visible (least) | before visible |")
        print("|---|---|---|---|---|---|---|")
        for title, row in table_of_masks(films).items():
            print(
                f"| {title} | {row.ratio:.2f} | {row.interacting:.2f} | {row.bystanding:.2f} | {row.lift:.2f} "
                f"| {row.visible:.2f} ({row.least_visible:.2f}) | {row.before:.2f} |"
            )


def _noisy(index: int, film: targeting.Film, deviation: float) -> targeting.Film:
    """Film number ``index`` with independent noise in every pixel."""
    if not deviation:
        return film
    noise = torch.randn(film.frames.shape, generator=torch.Generator().manual_seed(index))
    return film._replace(frames=(film.frames + deviation * noise).clamp(0, 1))


class Cost(NamedTuple):
    """Seconds of processor time per clip."""

    strategies: dict[str, float]
    "by title, to sample the masks of a clip"
    steps: dict[str, float]
    "by size of the encoder, to train on it"


def cost(size: int, *, batch: int, rounds: int, models: list[str]) -> Cost:
    """Medians over the ``rounds``, one more of which is not counted; models one after the other, for their memory."""
    films = [targeting.make(i, pan=0, patch=16, size=size, frames=16, seed=1) for i in range(batch)]
    sight = masks.Sight(normalised(torch.stack([film.frames for film in films])))
    seconds: dict[str, list[float]] = {title: [] for title in (*STRATEGIES, *models)}
    for model in models:
        for turns in _turns(model, size, batch, rounds, sight):
            for title, taken in turns.items():
                seconds[title].append(taken)
    medians = {title: statistics.median(values) / batch for title, values in seconds.items()}
    return Cost({title: medians[title] for title in STRATEGIES}, {model: medians[model] for model in models})


def _turns(model: str, size: int, batch: int, rounds: int, sight: masks.Sight) -> list[dict[str, float]]:
    """Seconds of each strategy and of the step of ``model``, round by round."""
    changes = [f"encoder.crop={size}", f"data.batch={batch}", "masks=[{name: random, ratio: 0.4}]"]
    if model in SIZES:
        config = load(PretrainConfig, [], [*changes, f"encoder.size={model}"])
    else:
        config = load(PretrainConfig, [training.ROOT / model], changes)
    inputs = training.Inputs(config, torch.device("cpu"))
    torch.manual_seed(0)
    step = training.our_step(config, build_jepa(config).train())
    strategies = {title: MASKS.build(entry) for title, entry in STRATEGIES.items()}
    found = []
    for i in range(rounds + 1):
        rngs = {title: dist.rng(0, i, batch=batch) for title in strategies}
        turns = {t: _timed(masks.sample, [s], inputs.grid, rngs[t], sight) for t, s in strategies.items()}
        found.append(turns | {model: _timed(step, *inputs(i))})
    return found[1:]


def print_cost(size: int, batch: int, rounds: int, models: list[str]) -> None:
    found = cost(size, batch=batch, rounds=rounds, models=models)
    steps = ", ".join(f"{model} {1e3 * seconds:.0f}" for model, seconds in found.steps.items())
    print(f"\n16 x {size} x {size}, batch {batch}; ms of processor time per clip: step of {steps}\n")
    print("| mask | ms per clip |" + "".join(f" of {model} |" for model in models))
    print("|---|---|" + "---|" * len(models))
    for title, seconds in found.strategies.items():
        shares = "".join(f" {seconds / found.steps[model]:.1%} |" for model in models)
        print(f"| {title} | {1e3 * seconds:.1f} |{shares}")


def _timed(work: Callable[..., Any], *arguments: Any) -> float:
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Where masks land, and what they cost.")
    parser.add_argument("what", choices=["targeting", "cost"])
    parser.add_argument("--films", type=int, default=40)
    parser.add_argument("--size", type=int, default=128, help="pixels per side, for cost")
    parser.add_argument("--batch", type=int, default=4, help="for cost")
    parser.add_argument("--models", nargs="+", default=["tiny"], help="encoders or configurations, for cost")
    parser.add_argument("--rounds", type=int, default=3, help="for cost, after one that is not counted")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {training.machine(torch.device('cpu'))}, {args.threads} thread(s)")
    if args.what == "targeting":
        print_targeting(args.films)
    else:
        print_cost(args.size, args.batch, args.rounds, args.models)


if __name__ == "__main__":
    main()
