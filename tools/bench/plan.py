# /// script
# dependencies = ["vjepa_lab[sim]"]
# ///
"""Time the planner beside a plain implementation of it, and count what a search costs until it is good enough.

    python tools/bench/plan.py cpu-128 cpu-384 --threads 2
    python tools/bench/plan.py vitg-256
    python tools/bench/plan.py --search runs/posttrain --threads 1

**Speed.** An action is: one picture encoded, then a search by the cross-entropy method. Both implementations have the
same weights, picture, goal and random numbers, and take turns in one process; what counts is the ratio within each
pair. Compared are the lowest energy of every iteration, the plans, and the energies of one set of samples, which is
timed by itself too. Weights are random and larger than at initialisation, so that actions matter to the energy: the gap
is to be seen beside its deviation among the samples.

**Search.** With a trained world model and the simulated arm, how many calls of the model plain CEM and iCEM need:
``plan_search.py``.

The plain implementation is described in ``plain_plan.py``, results and how they were got in ``RESULTS.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from plain_plan import PlainACPredictor, PlainPlanner, Settings
from plan_search import search, searches
from step import machine
from torch import Tensor

from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.merge import load
from vjepa_lab.planning.cem import Energy
from vjepa_lab.planning.model import Model
from vjepa_lab.planning.settings import CemConfig
from vjepa_lab.robots import DROID
from vjepa_lab.world import build_world

START = np.array([0.45, 0.05, 0.35, 3.0, 0.1, -0.8, 0.0])


class Preset(NamedTuple):
    """What is changed in the defaults of a post-training, and the search."""

    changes: list[str]
    samples: int
    horizon: int
    iterations: int
    chunk: int
    "samples at a time, in our implementation"
    needs_gpu: bool = False


_CPU = ["crop=64", "encoder.size=tiny", "encoder.patch=8", "encoder.depth=6", "encoder.heads=3"]
PRESETS = {
    "cpu-128": Preset([*_CPU, "encoder.width=96", "predictor={width: 128, depth: 4, heads: 4}"], 128, 4, 2, chunk=32),
    "cpu-384": Preset([*_CPU, "encoder.width=192", "predictor={width: 384, depth: 6, heads: 6}"], 64, 4, 2, chunk=16),
    "vitg-256": Preset(["crop=256", "encoder.size=giant"], 800, 1, 10, chunk=200, needs_gpu=True),
}


class Scene(NamedTuple):
    """Where a plan starts and where it is to lead."""

    image: NDArray[np.uint8]
    "(H, W, 3)"
    state: NDArray[np.float64]
    "(7,)"
    goal: Tensor
    "features (h*w, D)"


class Answer(NamedTuple):
    """What an implementation found."""

    lowest: Tensor
    "(I,) lowest energy of each iteration"
    actions: Tensor
    "(H, 7)"


class Contest(NamedTuple):
    """The same two jobs by several implementations, by name."""

    act: dict[str, Callable[[int], Answer]]
    "an action: encode the picture, then search; of a seed"
    judge: dict[str, Callable[[], Tensor]]
    "the energies (S,) of one set of samples"


def build_model(preset: Preset, device: torch.device) -> Model:
    """A world model with random weights at which actions matter."""
    config = load(PosttrainConfig, [], preset.changes)
    torch.manual_seed(0)
    world = build_world(config).requires_grad_(False).eval()
    for layer in world.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.mul_(4)
    world.predictor.action_encoder.weight.mul_(10)
    spec = RobotSpec(frames=2, height=config.crop, width=config.crop, random=False)
    return Model(world=world.to(device), spec=spec, device=device)


def scene(model: Model) -> Scene:
    """Two pictures of noise: one to start from, one to get to."""
    noise = np.random.default_rng(0).integers(0, 256, (2, model.spec.height, model.spec.width, 3), np.uint8)
    return Scene(noise[0], START, model.features(noise[1]))


def contest(model: Model, preset: Preset, names: Sequence[str] = ("plain", "ours")) -> Contest:
    """The implementations called ``names``, among plain, ours and bf16, which is ours in that precision."""
    predictor, device, here = model.world.predictor, model.device, scene(model)
    plain = PlainACPredictor(
        encoder_width=predictor.predictor_embed.in_features,
        width=predictor.predictor_embed.out_features,
        depth=len(predictor.predictor_blocks),
        heads=predictor.predictor_embed.out_features // predictor.head_dim,
        frames=preset.horizon,
        grid=model.grid,
    )
    plain.load_state_dict(predictor.state_dict())
    plain = plain.requires_grad_(False).to(device)
    settings = Settings(samples=preset.samples, horizon=preset.horizon, iterations=preset.iterations)
    config = CemConfig.preset("released")
    config = dataclasses.replace(config, **{f: getattr(settings, f) for f in ("samples", "horizon", "iterations")})
    drawn = torch.randn(preset.samples, preset.horizon, 7, generator=torch.Generator().manual_seed(1)).to(device) * 0.05
    drawn[..., 3:6] = 0

    def planner() -> PlainPlanner:
        state = torch.as_tensor(here.state, dtype=torch.float32, device=device)
        return PlainPlanner(plain, model.features(here.image), state)

    def energy() -> Energy:
        return model.energy(here.image, here.state, here.goal, chunk=preset.chunk)

    def plainly(seed: int) -> Answer:
        found = planner().search(here.goal, settings, torch.Generator().manual_seed(seed))
        return Answer(found.lowest.cpu(), found.actions.cpu())

    def ours(seed: int) -> Answer:
        found = search(energy(), config, torch.Generator().manual_seed(seed), DROID, device=device)
        return Answer(found.history.best, found.actions.cpu())

    @torch.no_grad()
    def our_energies() -> Tensor:
        return energy()(drawn).float()

    def in_bf16(job: Callable[..., Any]) -> Callable[..., Any]:
        return torch.autocast(device.type, torch.bfloat16)(job)

    act = {"plain": plainly, "ours": ours, "bf16": in_bf16(ours)}
    judge = {
        "plain": lambda: planner().energies(drawn, here.goal),
        "ours": our_energies,
        "bf16": in_bf16(our_energies),
    }
    return Contest({n: act[n] for n in names}, {n: judge[n] for n in names})


def take_turns(
    jobs: dict[str, Callable[[], Any]], *, warmup: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
    """Seconds and results of jobs that take turns, every second round backwards; those of ``warmup`` do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    results: dict[str, list[Any]] = {name: [] for name in jobs}
    for i in range(warmup + rounds):
        for name in list(jobs) if i % 2 == 0 else list(jobs)[::-1]:
            _wait()
            start = time.perf_counter()
            result = jobs[name]()
            _wait()
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
                results[name].append(result)
    return seconds, results


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def speed(name: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure one preset and print it; the same as numbers."""
    preset = PRESETS[name]
    model = build_model(preset, device)
    names = ["plain", "ours", *(["bf16"] if device.type == "cuda" else [])]
    both = contest(model, preset, names)
    seeds = {n: iter(range(args.warmup + args.pairs)) for n in names}
    acts = {n: (lambda n=n: both.act[n](next(seeds[n]))) for n in names}
    seconds, answers = take_turns(acts, warmup=args.warmup, rounds=args.pairs)
    judging, energies = take_turns(dict(both.judge), warmup=args.warmup, rounds=args.pairs)
    spread = energies["plain"][0].std().item()
    print(
        f"\n{name}: {preset.samples} samples x {preset.iterations}, horizon {preset.horizon}, grid {model.grid}, "
        f"energies {energies['plain'][0].mean():.3f} +- {spread:.1e}; 'times' is plain / this, min median max of pairs"
    )
    heads = ("s/action", "   times", "s/energies", "   times", "gap", "of search", "of plan")
    print("{:8}{:>9}{:19}{:>10}{:19}{:>8}{:>11}{:>9}".format("", *heads))
    rows = {}
    for n in names:
        row = {
            "s_action": statistics.median(seconds[n]),
            "times_action": _ratios(seconds["plain"], seconds[n]),
            "s_energies": statistics.median(judging[n]),
            "times_energies": _ratios(judging["plain"], judging[n]),
            "gap_energies": _gap(energies["plain"], energies[n]),
            "gap_lowest": _gap([a.lowest for a in answers["plain"]], [a.lowest for a in answers[n]]),
            "gap_actions": _gap([a.actions for a in answers["plain"]], [a.actions for a in answers[n]]),
        }
        rows[n] = row
        acting, judged = (" ".join(f"{x:.2f}" for x in row[f"times_{key}"]) for key in ("action", "energies"))
        print(
            f"{n:8}{row['s_action']:9.3f}   {acting:16}{row['s_energies']:10.3f}   {judged:16}"
            f"{row['gap_energies']:8.1e}{row['gap_lowest']:11.1e}{row['gap_actions']:9.1e}",
            flush=True,
        )
    return {"preset": name, "spread": spread, "implementations": rows}


def _ratios(plain: list[float], ours: list[float]) -> tuple[float, float, float]:
    ratios = [a / b for a, b in zip(plain, ours, strict=True)]
    return min(ratios), statistics.median(ratios), max(ratios)


def _gap(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure what ``argv`` asks for, print it, and give it back as numbers."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = {"torch": torch.__version__, "device": machine(device), "threads": args.threads, "load": os.getloadavg()[0]}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    results: dict[str, Any] = facts | {"speed": [], "search": []}
    for name in args.presets or ([] if args.search else ["cpu-128"]):
        if PRESETS[name].needs_gpu and device.type != "cuda":
            print(f"\n{name}: skipped, torch sees no CUDA device")
        else:
            results["speed"].append(speed(name, args, device))
    if args.search:
        results["search"] = searches(args, device)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return results


def _preset(text: str) -> str:
    if text not in PRESETS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(PRESETS)}, got '{text}'")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time the planner beside a plain implementation of it; count the model calls of searches.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("presets", nargs="*", type=_preset, metavar="preset", help=", ".join(PRESETS))
    parser.add_argument("--pairs", type=int, default=5, help="timed rounds of each implementation")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before that")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of torch on the CPU")
    parser.add_argument("--search", metavar="RUN", help="compare searches with this run of posttrain in the simulator")
    parser.add_argument("--goals", type=int, default=8, help="attempts of the comparison of searches")
    parser.add_argument("--seed", type=int, default=2000, help="of the first goal; the others follow")
    parser.add_argument("--steps", type=int, default=5, help="most actions per attempt")
    parser.add_argument("--horizons", type=int, nargs="+", default=[2, 4], help="of the compared searches")
    parser.add_argument("--samples", type=int, default=200, help="of plain CEM per iteration")
    parser.add_argument("--iterations", type=int, default=10, help="of plain CEM")
    parser.add_argument("--chunk", type=int, default=64, help="sequences at a time in the compared searches")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


if __name__ == "__main__":
    main()
