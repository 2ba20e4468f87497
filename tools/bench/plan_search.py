"""What a search costs until it is good enough: plain CEM and iCEM, without and with a last plan, in calls of the model.

With a trained world model and the simulated arm: from every place that a closed loop gets to, all methods search with
the same energy. The loop is driven by the last of them, so that its warm starts are those of its own use. Counted are
the sequences whose energy a search asks for until it has found one that is no worse than what plain CEM answers after
its last iteration (the mean, as released), to 1e-5, or to 1 % of it. Iterations count as a whole. Plain CEM is measured
so too: it may have reached its answer before its end.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

import torch

from vjepa_lab.dist import derive
from vjepa_lab.planning import cem
from vjepa_lab.planning.cem import Energy, PlanningResult
from vjepa_lab.planning.loop import Env
from vjepa_lab.planning.model import Model, open_model
from vjepa_lab.planning.settings import CemConfig
from vjepa_lab.robots import Robot

TOLERANCE = 1e-5


def search(
    energy: Energy,
    config: CemConfig,
    rng: torch.Generator,
    robot: Robot,
    *,
    start: PlanningResult | None = None,
    device: torch.device | str = "cpu",
) -> PlanningResult:
    """``cem.plan`` with the limits of a robot."""
    limits, closing = robot.action_limits, robot.closed - robot.opened
    return cem.plan(
        energy, config, rng, limits=limits, groups=robot.groups, start=start, closing=closing, device=device
    )


class Method(NamedTuple):
    """A way to search."""

    config: CemConfig
    start: Callable[[PlanningResult], PlanningResult] | None = None
    "what the next search makes of its last plan, one action later; None: it begins anew"


def repeating(last: PlanningResult) -> PlanningResult:
    """The last action of the plan once more, as ``PlanningResult.shifted`` has it."""
    return last.shifted()


def resting(last: PlanningResult) -> PlanningResult:
    """No action after the plan: where it ends, and so its energy, stays what it was."""
    ahead = last.shifted()
    actions, elites = ahead.actions.clone(), ahead.elites.clone()
    actions[-1], elites[:, -1] = 0, 0
    return ahead._replace(actions=actions, elites=elites)


def methods(*, samples: int, horizon: int, iterations: int) -> dict[str, Method]:
    """Plain CEM (settings of the released code, limit of the paper), and iCEM at a quarter of its calls.

    That is the proportion of the presets: 800 samples x 10, and 150 x 20.
    """
    size = {"horizon": horizon, "translation": 0.075, "gripper": 0.0}
    plain = dataclasses.replace(CemConfig.preset("released"), samples=samples, iterations=iterations, **size)
    icem = dataclasses.replace(
        CemConfig.preset("icem"), samples=max(samples * 150 // 800, 8), iterations=2 * iterations, **size
    )
    return {
        "CEM": Method(plain),
        "iCEM": Method(icem),
        "iCEM, warm": Method(icem, repeating),
        "iCEM, resting": Method(dataclasses.replace(icem, warm_spread=1.0), resting),
    }


class Place(NamedTuple):
    """How the searches fared from one place."""

    first: bool
    "of its attempt: there is no last plan"
    budget: int
    "sequences that plain CEM asks for altogether"
    answer: dict[str, float]
    "sequences asked for until the energy is that of plain CEM's answer, by method; inf: not reached"
    near: dict[str, float]
    "the same, until the energy is at most 1 % above that"
    energies: dict[str, float]
    "of the final plans"


def calls_until(found: PlanningResult, energy: float) -> float:
    """Sequences that a search had asked for when it had one of ``energy`` (to 1e-5), by whole iterations."""
    for asked, lowest in zip(found.history.evaluations.tolist(), found.energies.tolist(), strict=True):
        if lowest <= energy + TOLERANCE:
            return asked
    return found.evaluations if found.energy <= energy + TOLERANCE else math.inf


def compare(
    model: Model, env: Env, ways: dict[str, Method], seeds: Iterable[int], *, steps: int, chunk: int
) -> list[Place]:
    """Search by every method from every place of a closed loop, which the last method drives."""
    places = []
    for seed in seeds:
        seen = env.reset(seed)
        goal = model.features(env.goal.image)
        rngs = {name: torch.Generator().manual_seed(derive(seed, name)) for name in ways}
        last: dict[str, PlanningResult] = {}
        for step in range(steps):
            energy = model.energy(seen.image, seen.state, goal, chunk=chunk)
            for name, way in ways.items():
                start = way.start(last[name]) if way.start and step else None
                last[name] = search(energy, way.config, rngs[name], env.robot, start=start, device=model.device)
            plain = last["CEM"]
            places.append(
                Place(
                    first=step == 0,
                    budget=plain.evaluations,
                    answer={name: calls_until(found, plain.energy) for name, found in last.items()},
                    near={name: calls_until(found, 1.01 * plain.energy) for name, found in last.items()},
                    energies={name: found.energy for name, found in last.items()},
                )
            )
            seen = env.act(last[list(ways)[-1]].actions[0].double().cpu().numpy())
            if env.solved:
                break
    return places


def searches(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Compare the searches in the simulated arm and print it; the same as numbers."""
    from vjepa_lab.planning.sim import FrankaSim  # the extra `sim`

    model = open_model(args.search, device=device)
    rate = model.spec.fps or model.world.robot.rate
    results = []
    for horizon in args.horizons:
        ways = methods(samples=args.samples, horizon=horizon, iterations=args.iterations)
        with FrankaSim(size=max(model.spec.height, model.spec.width), rate=rate) as env:
            seeds = range(1000, 1000 + args.goals)
            places = compare(model, env, ways, seeds, steps=args.steps, chunk=args.chunk)
        results += report(places, horizon, {name for name, way in ways.items() if way.start})
    return results


def report(places: list[Place], horizon: int, warm: Container[str]) -> list[dict[str, Any]]:
    """Print what ``compare`` found, as shares of plain CEM's calls; the same as numbers.

    The methods in ``warm`` are judged where they had a last plan.
    """
    later = [p for p in places if not p.first]
    print(
        f"\nsearch, horizon {horizon}: {len(places)} places, {len(later)} of them with a last plan; CEM asks for "
        f"{places[0].budget} sequences; shares of that until its answer is reached (median, 90 %, places that reach it)"
    )
    print(f"{'':14}{'its answer':>24}{'within 1 %':>24}{'energy - CEM':>16}")
    rows = []
    for name in places[0].answer:
        counted = later if name in warm else places
        row: dict[str, Any] = {"horizon": horizon, "method": name, "places": len(counted)}
        for key in ("answer", "near"):
            shares = sorted(getattr(p, key)[name] / p.budget for p in counted)
            row[key] = (
                statistics.median(shares),
                shares[math.ceil(0.9 * len(shares)) - 1],
                sum(map(math.isfinite, shares)) / len(shares),
            )
        row["above"] = statistics.mean(p.energies[name] - p.energies["CEM"] for p in counted)
        rows.append(row)
        columns = "".join(
            f"{_share(median):>10}{_share(most):>7}{reached:>7.0%}"
            for median, most, reached in (row["answer"], row["near"])
        )
        print(f"{name:14}{columns}{row['above']:+16.1e}", flush=True)
    return rows


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "-"
