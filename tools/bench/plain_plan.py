"""A plain planner, the yardstick of ``plan.py``: the cross-entropy method of the released notebook over the released
AC predictor, done in the straightforward way.

It is a second implementation: nothing of ``vjepa_lab`` is imported, parameters bear the released names. What it does
as the released code does, and ``vjepa_lab`` does not:

- every step of the horizon gives the predictor the whole history, repeated for every sample, and keeps of its output
  the last frame alone;
- samples are drawn for one step of the horizon, pushed through the model, and only then for the next;
- attention gets a dense boolean mask over all tokens, which a double loop builds for the most frames there will be;
- every layer works out positions, frequencies, sines and cosines anew, for queries and keys, for each axis, and for
  each kind of condition, and concatenates the rotated pieces;
- poses are composed on the CPU, one sample after the other, in float64 (by numpy here, by scipy there).

All samples go through the model at once, as in the released code: memory grows with their number.

Letters: S samples, T frames, H steps of the horizon, c conditions and h*w patches per frame, D width.

Reference: released files src/models/ac_predictor.py, notebooks/utils/{mpc_utils,world_model_wrapper}.py, described in
words and written anew.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from plain_step import PlainMlp, rotate
from torch import Tensor, nn

CONDITIONS = 2


class PlainCausalAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, grid: tuple[int, int, int]) -> Tensor:
        samples, tokens, width = x.shape
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = rotated(qkv[0], grid), rotated(qkv[1], grid), qkv[2]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(x.transpose(1, 2).reshape(samples, tokens, width))


def rotated(x: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Queries or keys (S, heads, T * (c + h*w), d) turned: patches along three axes, conditions in time."""
    frames, rows, columns = grid
    m = 2 * ((x.shape[-1] // 3) // 2)
    x = x.unflatten(2, (frames, -1))
    parts = []
    for i in range(CONDITIONS):
        condition = x[:, :, :, i]
        turned = rotate(condition[..., :m], torch.arange(frames, device=x.device))
        parts.append(torch.cat((turned, condition[..., m:]), dim=-1).unsqueeze(3))
    patches = x[:, :, :, CONDITIONS:].flatten(2, 3)
    ids = torch.arange(frames * rows * columns, device=x.device)
    time = ids // (rows * columns)
    row = (ids - time * rows * columns) // columns
    column = ids - time * rows * columns - row * columns
    pieces = [rotate(patches[..., i * m : (i + 1) * m], axis) for i, axis in enumerate((time, row, column))]
    patches = torch.cat((*pieces, patches[..., 3 * m :]), dim=-1)
    return torch.cat((*parts, patches.unflatten(2, (frames, -1))), dim=3).flatten(2, 3)


class PlainCausalBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = PlainCausalAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = PlainMlp(width, 4 * width)

    def forward(self, x: Tensor, mask: Tensor, grid: tuple[int, int, int]) -> Tensor:
        x = x + self.attn(self.norm1(x), mask, grid)
        return x + self.mlp(self.norm2(x))


class PlainACPredictor(nn.Module):
    """Features of the next frame, for every frame of a sequence of at most ``frames``, on a grid of (rows, columns)."""

    mask: Tensor

    def __init__(
        self, *, encoder_width: int, width: int, depth: int, heads: int, frames: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.grid = grid
        self.predictor_embed = nn.Linear(encoder_width, width)
        self.action_encoder = nn.Linear(7, width)
        self.state_encoder = nn.Linear(7, width)
        self.extrinsics_encoder = nn.Linear(6, width)  # never used, and in every released file
        self.predictor_blocks = nn.ModuleList(PlainCausalBlock(width, heads) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor_proj = nn.Linear(width, encoder_width)
        self.register_buffer("mask", causal_mask(frames, CONDITIONS + grid[0] * grid[1]), persistent=False)

    def forward(self, tokens: Tensor, actions: Tensor, states: Tensor) -> Tensor:
        """Tokens (S, T * h*w, D), actions and states (S, T, 7) -> (S, T * h*w, D)."""
        frames = actions.shape[1]
        x = self.predictor_embed(tokens).unflatten(1, (frames, -1))
        action, state = self.action_encoder(actions).unsqueeze(2), self.state_encoder(states).unsqueeze(2)
        x = torch.cat((action, state, x), dim=2).flatten(1, 2)
        mask = self.mask[: x.shape[1], : x.shape[1]]
        for block in self.predictor_blocks:
            x = block(x, mask, (frames, *self.grid))
        x = x.unflatten(1, (frames, -1))[:, :, CONDITIONS:].flatten(1, 2)
        return self.predictor_proj(self.predictor_norm(x))


def causal_mask(frames: int, tokens: int) -> Tensor:
    """Which token sees which: bool (frames * tokens, frames * tokens)."""
    mask = torch.zeros(frames * tokens, frames * tokens, dtype=torch.bool)
    for t in range(frames):
        for past in range(t + 1):
            mask[t * tokens : (t + 1) * tokens, past * tokens : (past + 1) * tokens] = True
    return mask


def composed(poses: Tensor, actions: Tensor) -> Tensor:
    """The poses (S, 7) that ``actions`` (S, 7) lead to, one after the other."""
    out = []
    for pose, action in zip(poses.cpu().double().numpy(), actions.cpu().double().numpy(), strict=True):
        turned = to_matrix(action[3:6]) @ to_matrix(pose[3:6])
        gripper = np.clip(pose[6:] + action[6:], 0.0, 1.0)
        out.append(np.concatenate((pose[:3] + action[:3], to_euler(turned), gripper)))
    return torch.from_numpy(np.stack(out)).to(poses)


def to_matrix(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Extrinsic xyz Euler angles (3,) -> (3, 3)."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return z @ y @ x


def to_euler(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) -> extrinsic xyz Euler angles (3,), away from gimbal lock."""
    a, c = math.atan2(matrix[2, 1], matrix[2, 2]), math.atan2(matrix[1, 0], matrix[0, 0])
    return np.array([a, math.asin(min(max(-matrix[2, 0], -1.0), 1.0)), c])


class PlainPlanner:
    """Imagines with a predictor from one frame: features (h*w, D) and a state (7,)."""

    def __init__(self, predictor: PlainACPredictor, features: Tensor, state: Tensor) -> None:
        self.predictor = predictor
        self.features, self.state = features, state

    def _begin(self, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """The history of every sample: tokens (S, h*w, D), no actions (S, 0, 7), one pose (S, 1, 7)."""
        tokens, poses = self.features.repeat(samples, 1, 1), self.state.repeat(samples, 1, 1)
        return tokens, poses[:, :0], poses

    def _step(self, tokens: Tensor, actions: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
        """The history with one frame and one pose more."""
        cells = len(self.features)
        predicted = self.predictor(tokens, actions, poses)[:, -cells:]
        predicted = F.layer_norm(predicted, (predicted.shape[-1],))
        pose = composed(poses[:, -1], actions[:, -1]).unsqueeze(1)
        return torch.cat((tokens, predicted), dim=1), torch.cat((poses, pose), dim=1)

    def _distance(self, tokens: Tensor, goal: Tensor) -> Tensor:
        return (tokens[:, -len(goal) :] - goal).abs().mean((1, 2))

    @torch.no_grad()
    def energies(self, actions: Tensor, goal: Tensor) -> Tensor:
        """(S,) of action sequences (S, H, 7): how far what they lead to is from ``goal`` (h*w, D)."""
        tokens, _, poses = self._begin(len(actions))
        for h in range(actions.shape[1]):
            tokens, poses = self._step(tokens, actions[:, : h + 1], poses)
        return self._distance(tokens, goal)

    @torch.no_grad()
    def search(self, goal: Tensor, settings: Settings, rng: torch.Generator) -> Found:
        """The cross-entropy method over x, y, z and the gripper."""
        s, device = settings, self.features.device
        mean = torch.zeros(s.horizon, 4, device=device)
        std = torch.tensor([s.limit, s.limit, s.limit, 1.0], device=device).repeat(s.horizon, 1)
        lowest = []
        for _ in range(s.iterations):
            tokens, actions, poses = self._begin(s.samples)
            for h in range(s.horizon):
                noise = torch.randn(s.samples, 4, generator=rng, device=rng.device).to(device)
                drawn = noise * std[h] + mean[h]
                moves = drawn[:, :3].clip(-s.limit, s.limit)
                gripper = drawn[:, 3:].clip(-s.gripper_limit, s.gripper_limit)
                action = torch.cat((moves, torch.zeros_like(moves), gripper), dim=-1)
                actions = torch.cat((actions, action.unsqueeze(1)), dim=1)
                tokens, poses = self._step(tokens, actions, poses)
            found = self._distance(tokens, goal)
            elites = actions[found.topk(s.elites, largest=False).indices][..., [0, 1, 2, 6]]
            mean = elites.mean(0) * (1 - s.momentum) + mean * s.momentum
            std = elites.std(0) * (1 - s.momentum) + std * s.momentum
            lowest.append(found.min())
        plan = torch.zeros(s.horizon, 7, device=device)
        plan[:, :3] = mean[:, :3]
        plan[:, 6] = torch.where(mean[:, 3].abs() < s.gripper_threshold, 0.0, mean[:, 3])
        return Found(plan, torch.stack(lowest))


class Settings(NamedTuple):
    """Of the search; the numbers that have a default are those of the released notebook's code."""

    samples: int
    horizon: int
    iterations: int
    limit: float = 0.05
    "of a translation, m"
    elites: int = 10
    momentum: float = 0.15
    gripper_limit: float = 0.75
    gripper_threshold: float = 0.25


class Found(NamedTuple):
    """A plan."""

    actions: Tensor
    "(H, 7)"
    lowest: Tensor
    "(I,) lowest energy of each iteration"
