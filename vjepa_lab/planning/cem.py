"""Action sequences of low energy, by the cross-entropy method: draw, keep the best, draw around those.

Letters: S samples, H steps of the horizon, A numbers of an action, E elites, I iterations.

``plan`` sees an energy, limits and a generator. It knows no world and no robot: ``limits`` and ``groups`` are those of
``Robot.action_limits`` and ``Robot.groups``. The energy gets all steps of all samples of an iteration at once,
(S, H, A). Where that is more than fits in memory, ``chunked(energy, size)`` hands them on in pieces; how large they may
be only the energy's author can say.

One function holds three methods; the presets are settings of it:

- ``released``: the algorithm of the released notebook. It draws one step of the horizon after the other, but nothing
  is judged before the last, so that drawing all at once is the same.
- ``icem`` (Pinneri et al., arXiv 2008.06389): noise that is coloured along the horizon, elites that are kept, and
  populations that shrink. Kept elites keep their energies, as the energy is not random, and cost no second look. From a
  last plan, a quarter of plain CEM's calls is enough for its energy (``tools/bench/RESULTS.md``).
- ``gradient_steps`` of any: the best sample and the mean then descend the energy's gradient within the limits.

Decisions:

- The paper writes of an L1 ball of radius 0.075 and a largest motion of 13 cm, which is the diagonal of the box that
  the released code clips to: ``ball: box`` is the default, ``l1`` what is written. What lies outside the ball is scaled
  back to it, which keeps the direction.
- The answer is the best of all that was drawn and of the last mean (``answer: best``); the paper's is the mean.
- A number of an action whose limit is 0 takes no random numbers; one that is held at a value does, as released.
- The generator may live on the CPU whatever the device: then the same seed gives the same plan everywhere.

Reference: V-JEPA 2 paper, section 3.2; released file notebooks/utils/mpc_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vjepa_lab.planning._space import Space
from vjepa_lab.planning.settings import CemConfig

Energy = Callable[[Tensor], Tensor]
"Energies (S,) of action sequences (S, H, A), the lower the better"


class History(NamedTuple):
    """How a search went; on the CPU."""

    mean: Tensor
    "(I, H, A) after each iteration"
    std: Tensor
    "(I, H, A)"
    best: Tensor
    "(I,) lowest energy of each iteration"
    elite: Tensor
    "(I,) mean energy of its elites"
    evaluations: Tensor
    "int64 (I,) sequences whose energy was asked for up to then"


class PlanningResult(NamedTuple):
    """A plan, and what the next search may start from."""

    actions: Tensor
    "(H, A)"
    energy: float
    "of these actions"
    energies: Tensor
    "(I,) lowest energy found up to each iteration"
    elites: Tensor
    "(E, H, A) of the last iteration, best first"
    history: History
    evaluations: int
    "sequences whose energy was asked for, altogether; a gradient step counts as one per sequence"

    def shifted(self, steps: int = 1) -> PlanningResult:
        """What is left of the plan after ``steps`` of its actions have been executed, and no action from there on.

        It ends where the plan ended. One more of the last action would lead past the goal, as only the end is judged.
        """
        return self._replace(actions=_ahead(self.actions, steps), elites=_ahead(self.elites, steps))


def plan(
    energy: Energy,
    config: CemConfig,
    rng: torch.Generator,
    *,
    limits: Sequence[float],
    groups: Mapping[str, slice],
    start: PlanningResult | None = None,
    closing: float = 1.0,
    device: torch.device | str = "cpu",
) -> PlanningResult:
    """Search for the action sequence of lowest energy.

    Args:
        energy: (S,) of sequences (S, H, A) on ``device``. Called without gradients, but for ``gradient_steps``.
        config: how to search.
        rng: all random numbers, so that the same generator state gives the same plan.
        limits: largest size of each number of an action, where ``config`` does not say.
        groups: where ``translation``, ``rotation`` and ``gripper`` are in an action.
        start: an earlier plan whose actions and elites are tried first; ``last.shifted()`` one step later.
        closing: the action that closes the gripper.

    Raises:
        ValueError: limits, groups and ``config`` do not fit; the energy is not finite, not of shape (S,), or not
            differentiable where it must be.
    """
    space = Space(config, limits, groups, closing, torch.device(device))
    if start is not None and start.actions.shape != space.held.shape:
        raise ValueError(f"start: expected actions {tuple(space.held.shape)}, got {tuple(start.actions.shape)}")
    mean, std = space.held.clone(), torch.where(space.free, space.spread, 0.0)
    tried = space.held.new_empty(0, *space.held.shape)  # sequences known before drawing, whose energies are not
    kept = elites = tried  # and those whose energies are known
    kept_energies = tried.new_empty(0)
    if start is not None:
        mean, std = space.project(start.actions), std * config.warm_spread
        count = round(config.keep * len(start.elites))
        tried = space.project(torch.cat((start.actions[None], start.elites[:count])))

    best, best_energy = mean, torch.full((), torch.inf, device=device)
    records: list[tuple[Tensor, ...]] = []
    evaluations = 0
    for i in range(config.iterations):
        drawn = space.project(mean + std * space.noise(_population(config, i), rng))
        asked = torch.cat((tried, drawn))
        with torch.no_grad():
            found = _checked(energy, asked)
        evaluations += len(asked)
        pool, pool_energies = torch.cat((kept, asked)), torch.cat((kept_energies, found))
        lowest, order = pool_energies.topk(config.elites, largest=False)  # NaN counts as highest
        elites = pool[order]

        mean = space.mix(elites.mean(0), mean, space.momentum_mean)
        std = space.mix(elites.std(0), std, space.momentum_std)
        lower = lowest[0] < best_energy
        best, best_energy = torch.where(lower, elites[0], best), torch.where(lower, lowest[0], best_energy)
        count = round(config.keep * config.elites)
        tried, kept, kept_energies = tried[:0], elites[:count], lowest[:count]
        records.append((mean, std, lowest[0], lowest.mean(), torch.tensor(evaluations)))

    answers = torch.stack((mean, best) if config.answer == "best" else (mean,))
    if config.gradient_steps:
        answers = _descend(energy, answers, config, space)
        evaluations += config.gradient_steps * len(answers)
    answers = space.tidy(answers)
    with torch.no_grad():
        final = _checked(energy, answers)
    chosen = int(final.argmin())
    if not final[chosen].isfinite():
        raise ValueError(f"energy: expected finite numbers, got {final.tolist()} for the plans found")
    history = History(*(torch.stack(column).cpu() for column in zip(*records, strict=True)))
    return PlanningResult(
        actions=answers[chosen],
        energy=float(final[chosen]),
        energies=history.best.cummin(0).values,
        elites=elites,
        history=history,
        evaluations=evaluations + len(answers),
    )


def chunked(energy: Energy, size: int) -> Energy:
    """The same energy, asked for at most ``size`` sequences at a time."""
    if size < 1:
        raise ValueError(f"chunked: got size {size}, expected at least 1")
    return lambda actions: torch.cat([energy(part) for part in actions.split(size)])


def _ahead(actions: Tensor, steps: int) -> Tensor:
    """Sequences (..., H, A) without their first steps, zeros at the end."""
    left = actions[..., steps:, :]
    return torch.cat((left, torch.zeros_like(actions[..., left.shape[-2] :, :])), dim=-2)


def _population(config: CemConfig, iteration: int) -> int:
    fewest = min(config.samples, 2 * config.elites)
    return max(math.floor(config.samples * config.shrink**-iteration), fewest)


def _checked(energy: Energy, actions: Tensor) -> Tensor:
    energies = energy(actions)
    if energies.shape != actions.shape[:1]:
        raise ValueError(f"energy: expected shape ({len(actions)},), got {tuple(energies.shape)}")
    return energies.float()


def _descend(energy: Energy, actions: Tensor, config: CemConfig, space: Space) -> Tensor:
    """Sequences (K, H, A) after gradient descent (Adam, in units of the limits): of each the best that was met."""
    unit = torch.where(space.limit > 0, space.limit, 1.0)
    scaled = (actions / unit).requires_grad_()
    optimizer = torch.optim.Adam([scaled], lr=config.gradient_rate)
    best, lowest = actions, torch.full((len(actions),), torch.inf, device=actions.device)
    for step in range(config.gradient_steps):
        with torch.enable_grad():
            current = space.project(scaled * unit)
            energies = _checked(energy, current)
            if not energies.requires_grad:
                raise ValueError("energy: gradient_steps need one that is differentiable, this one has no gradient")
            (scaled.grad,) = torch.autograd.grad(energies.sum(), [scaled])
        lower = energies.detach() < lowest
        best = torch.where(lower[:, None, None], current.detach(), best)
        lowest = torch.where(lower, energies.detach(), lowest)
        optimizer.param_groups[0]["lr"] = config.gradient_rate * (1 - step / config.gradient_steps)
        optimizer.step()
        with torch.no_grad():
            scaled.copy_(space.project(scaled * unit) / unit)
    return best
