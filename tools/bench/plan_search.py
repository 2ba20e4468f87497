"""What a search costs until it is good enough: plain CEM and iCEM, without and with a last plan, in calls of the model.

With a trained world model and the simulated arm: from every place that a closed loop gets to, all methods search with
the same energy. The loop is driven by the last of them, so that its warm starts are those of its own use. Counted are
the sequences whose energy a search asks for until it has found one that is no worse than what plain CEM answers after
its last iteration (the mean, as released), to 1e-5, or to 1 % of it. Iterations count as a whole. Plain CEM is measured
so too: it may have reached its answer before its end.

Where the energy has several valleys, plain CEM does not find its own answer again either. What may be asked of another
method is therefore what plain CEM with other random numbers does, which is a row of its own. First places, where
there is no last plan, and later ones are told apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Container, Iterable
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
    warm: bool = False
    "from the last plan, shifted by an action"


def methods(*, samples: int, horizon: int, iterations: int) -> dict[str, Method]:
    """Plain CEM (settings of the released code, limit of the paper), and iCEM at a quarter of its calls or less.

    The preset ``icem`` is meant beside 800 samples x 10; where plain CEM has others, it is scaled in proportion.
    """
    size = {"horizon": horizon, "translation": 0.075, "gripper": 0.0}
    plain = dataclasses.replace(CemConfig.preset("released"), samples=samples, iterations=iterations, **size)
    icem = CemConfig.preset("icem")
    icem = dataclasses.replace(
        icem,
        samples=max(samples * icem.samples // 800, icem.elites),
        iterations=max(iterations * icem.iterations // 10, 1),
        **size,
    )
    return {
        "CEM": Method(plain),
        "CEM, another seed": Method(plain),
        "iCEM": Method(icem),
        "iCEM, warm": Method(icem, warm=True),
    }


class Place(NamedTuple):
    """How the searches fared from one place."""

    first: bool
    "of its attempt: there is no last plan"
    calls: dict[str, int]
    "sequences asked for altogether, by method"
    answer: dict[str, float]
    "sequences asked for until the energy is that of plain CEM's answer; inf: not reached"
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
                start = last[name].shifted() if way.warm and step else None
                last[name] = search(energy, way.config, rngs[name], env.robot, start=start, device=model.device)
            plain = last["CEM"]
            places.append(
                Place(
                    first=step == 0,
                    calls={name: found.evaluations for name, found in last.items()},
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
            seeds = range(args.seed, args.seed + args.goals)
            places = compare(model, env, ways, seeds, steps=args.steps, chunk=args.chunk)
        results += report(places, horizon, {name for name, way in ways.items() if way.warm})
    return results


def report(places: list[Place], horizon: int, warm: Container[str]) -> list[dict[str, Any]]:
    """Print what ``compare`` found, as shares of plain CEM's calls; the same as numbers.

    The methods in ``warm`` are judged where they had a last plan alone.
    """
    print(
        f"\nsearch, horizon {horizon}, {places[0].calls['CEM']} calls of CEM. calls: share of that; reach: where "
        "CEM's\nanswer is reached, to 1e-5 or 1 % (share of calls until then, median); gap: final energy - CEM's"
    )
    rows = []
    for where, first in (("first", True), ("later", False)):
        counted = [p for p in places if p.first == first]
        if not counted:
            continue
        energy = statistics.mean(p.energies["CEM"] for p in counted)
        title, heads = f"{where} ({len(counted)}), CEM {energy:.4f}", ("calls", "reach", "1 %", "mean gap", "largest")
        print(f"{title:26}" + "{:>6}{:>14}{:>14}{:>11}{:>10}".format(*heads))
        for name in places[0].answer:
            if first and name in warm:
                continue
            gaps = [p.energies[name] - p.energies["CEM"] for p in counted]
            row: dict[str, Any] = {"horizon": horizon, "where": where, "method": name, "places": len(counted)}
            row |= {"calls": max(p.calls[name] / p.calls["CEM"] for p in counted)}
            row |= {"gap": statistics.mean(gaps), "largest": max(gaps)}
            for key in ("answer", "near"):
                shares = sorted(getattr(p, key)[name] / p.calls["CEM"] for p in counted)
                row[key] = (sum(map(math.isfinite, shares)) / len(shares), statistics.median(shares))
            rows.append(row)
            reached = "".join(f"{share:>7.0%}{_share(middle):>7}" for share, middle in (row["answer"], row["near"]))
            print(f"  {name:24}{row['calls']:>6.0%}{reached}{row['gap']:>+11.1e}{row['largest']:>+10.1e}", flush=True)
    return rows


def _share(value: float) -> str:
    return f"({value:.0%})" if math.isfinite(value) else "(-)"
