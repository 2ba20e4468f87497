"""Which action sequences a plan may choose from, and how they are drawn.

Letters: S samples, H steps of the horizon, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vjepa_lab.planning.settings import CemConfig


class Space:
    """Which sequences (H, A) a plan may choose from, and how they are drawn."""

    def __init__(
        self,
        config: CemConfig,
        limits: Sequence[float],
        groups: Mapping[str, slice],
        closing: float,
        device: torch.device,
    ) -> None:
        self.config, self.groups = config, groups
        self.limit = torch.tensor(limits, dtype=torch.float32, device=device)  # (A,)
        width = len(limits)
        if any(where.stop > width for where in groups.values()) or not set(config.fixed) <= set(range(width)):
            raise ValueError(f"planner: groups {dict(groups)} and fixed {config.fixed} exceed {width} limits")
        spread = torch.full_like(self.limit, config.spread)
        self.momentum_mean = torch.full_like(self.limit, config.momentum_mean)
        self.momentum_std = torch.full_like(self.limit, config.momentum_std)
        for name in ("translation", "rotation", "gripper"):
            size = getattr(config, name)
            if name in groups and size is not None:
                self.limit[groups[name]] = size
        self.free = (self.limit > 0).repeat(config.horizon, 1)  # (H, A)
        self.held = torch.zeros(config.horizon, width, device=device)
        for index, value in config.fixed.items():
            self.free[:, index], self.held[:, index] = False, value
        if "gripper" in groups:
            gripper = groups["gripper"]
            spread[gripper] = config.spread_gripper
            self.momentum_mean[gripper] = config.momentum_mean_gripper
            self.momentum_std[gripper] = config.momentum_std_gripper
            if config.close_gripper is not None:
                self.free[config.close_gripper :, gripper] = False
                self.held[config.close_gripper :, gripper] = closing
        self.spread = spread * self.limit
        self.drawn = (self.limit > 0).nonzero().squeeze(1)  # held numbers take theirs too, as in the released code

    def noise(self, samples: int, rng: torch.Generator) -> Tensor:
        """Unit noise (S, H, A), zero where nothing is to be chosen; one step of the horizon after the other."""
        horizon, width = self.held.shape
        white = torch.randn(horizon, samples, len(self.drawn), generator=rng, device=rng.device)
        if self.config.colour and horizon > 1:
            white = coloured(white, self.config.colour)
        noise = self.held.new_zeros(samples, horizon, width)
        noise[..., self.drawn] = white.transpose(0, 1).to(noise.device)
        return noise

    def project(self, actions: Tensor) -> Tensor:
        """Sequences (..., H, A) brought within the limits, with held numbers held."""
        actions = actions.clamp(-self.limit, self.limit)
        if self.config.ball == "l1" and "translation" in self.groups:
            where = self.groups["translation"]
            radius = self.limit[where].amax().clamp_min(torch.finfo(actions.dtype).tiny)
            scale = torch.ones_like(actions)
            scale[..., where] = radius / actions[..., where].abs().sum(-1, keepdim=True).clamp_min(radius)
            actions = actions * scale
        return torch.where(self.free, actions, self.held)

    def mix(self, new: Tensor, old: Tensor, momentum: Tensor) -> Tensor:
        """Moments (H, A) after an iteration."""
        return torch.where(self.free, new * (1 - momentum) + old * momentum, old)

    def tidy(self, actions: Tensor) -> Tensor:
        """Sequences (..., H, A) without small motions of the gripper."""
        if "gripper" not in self.groups:
            return actions
        gripper = torch.zeros_like(self.free)
        gripper[:, self.groups["gripper"]] = True
        small = actions.abs() < self.config.gripper_threshold
        return torch.where(gripper & self.free & small, 0.0, actions)


def coloured(white: Tensor, exponent: float) -> Tensor:
    """White noise (H, ...) -> noise of unit variance whose power falls with frequency f as f ** -exponent."""
    horizon = len(white)
    frequency = torch.fft.rfftfreq(horizon, device=white.device)
    frequency[0] = frequency[1]  # the mean is as strong as the slowest wave
    gain = frequency ** (-exponent / 2)
    both = torch.cat((gain, gain[1 : (horizon + 1) // 2]))  # the negative frequencies as well
    gain = gain / both.square().mean().sqrt()
    spectrum = torch.fft.rfft(white, dim=0) * gain.view(-1, *(1,) * (white.ndim - 1))
    return torch.fft.irfft(spectrum, n=horizon, dim=0)
