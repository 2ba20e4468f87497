"""The V-JEPA 2-AC world model: predict the features of the next frame from those so far, actions and states.

A frozen encoder sees every frame by itself, as a clip of one tubelet (the frame repeated). The AC predictor reads the
features of frames 1 to T - 1, the state at each and the action after each, and says what the features of frames 2 to T
are. Features and predictions go through a layer norm without weights.

The loss has two terms, each a mean |z - h|^p / p over all numbers:

- teacher forcing: every next frame from the true features before it;
- rollout: the predictor goes on from its own predictions for ``steps`` steps from the first frame, under the recorded
  actions and states. ``released`` averages all of those steps, the first of which is the teacher-forced one, as the
  released code does; ``final`` is the last step alone, as the paper's equation 3 has it.

Decisions. A rollout feeds one frame at a time and keeps keys and values of the earlier ones, which is exact because no
frame sees a later one; training starts it from the teacher-forced pass, whose first frame is the same. States and
actions may be standardised (``statistics``); released weights read them as they are. Poses are integrated on the
device by the robot's own rule, for all samples at once.

Letters: B samples, T frames, S state, A action, h w rows and columns of tokens, D width.

Reference: V-JEPA 2 paper, section 3.1, equations 2 to 4; released files app/vjepa_droid/train.py and
notebooks/utils/world_model_wrapper.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from vjepa_lab import robots
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.jepa import build_encoder, normalise
from vjepa_lab.nn.ac_predictor import ACPredictor, FrameCache
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.robots import Robot, Statistics

RolloutLoss = Literal["released", "final"]


class Imagined(NamedTuple):
    """What a rollout predicts."""

    features: Tensor
    "(B, H, h*w, D), layer-normed: after each of H actions"
    states: Tensor
    "(B, H, S): integrated from the actions"


class Seen(NamedTuple):
    """Frames that have been encoded and read by the predictor, to start rollouts from."""

    features: Tensor
    "(B, h*w, D) of the last frame"
    state: Tensor
    "(B, S) at the last frame"
    cache: FrameCache
    "keys and values of the frames before the last one"
    extrinsics: Tensor | None = None
    "(B, 6) at the last frame, where the predictor reads them"


class World(nn.Module):
    """Frozen encoder and AC predictor.

    Args:
        encoder: frozen here, and kept in evaluation mode.
        predictor: of the encoder's width and the robot's dimensions.
        robot: how states and actions are to be read.
        steps: length of the rollout in the loss.
        rollout: which of its steps count.
        power: exponent of the loss.
        statistics: of states and actions, which the predictor then gets standardised; None: as they are.

    Raises:
        ValueError: dimensions that do not fit the robot, or an unknown ``rollout``.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        predictor: ACPredictor,
        robot: Robot,
        steps: int = 2,
        rollout: RolloutLoss = "released",
        power: float = 1.0,
        statistics: tuple[Statistics, Statistics] | None = None,
    ) -> None:
        super().__init__()
        if rollout not in get_args(RolloutLoss):
            raise ValueError(f"rollout: got '{rollout}', expected one of {', '.join(get_args(RolloutLoss))}")
        for name, layer, dim in (
            ("state", predictor.state_encoder, robot.state_dim),
            ("action", predictor.action_encoder, robot.action_dim),
        ):
            if layer.in_features != dim:
                raise ValueError(f"{name}: the predictor reads {layer.in_features} numbers, {robot.name} has {dim}")
        self.encoder = encoder.requires_grad_(False).eval()
        self.predictor = predictor
        self.robot = robot
        self.steps = steps
        self.rollout_loss = rollout
        self.power = power
        for name, dim, known in zip(
            ("state", "action"), (robot.state_dim, robot.action_dim), statistics or (None, None), strict=True
        ):
            self.register_buffer(f"{name}_mean", torch.zeros(dim) if known is None else known.mean.clone())
            self.register_buffer(f"{name}_std", torch.ones(dim) if known is None else known.std.clone())

    def train(self, mode: bool = True) -> World:
        """As in every module, but the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Layer-normed features (B, T, h*w, D) of normalised float frames (B, 3, T, H, W), each frame by itself."""
        batch = frames.shape[0]
        clips = frames.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (B * T, 3, 1, H, W)
        clips = clips.expand(-1, -1, self.encoder.tubelet, -1, -1)
        return normalise(self.encoder(clips)).unflatten(0, (batch, -1))

    def grid(self, frames: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens of frames (..., H, W)."""
        return frames.shape[-2] // self.encoder.patch, frames.shape[-1] // self.encoder.patch

    def forward(
        self,
        features: Tensor,
        states: Tensor,
        actions: Tensor,
        grid: tuple[int, int],
        extrinsics: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of recorded sequences.

        Args:
            features: of T frames, as ``encode`` gives them, (B, T, h*w, D).
            states: (B, T, S).
            actions: between the frames, (B, T - 1, A).
            grid: rows and columns of tokens.
            extrinsics: (B, T, 6), read if the predictor uses them.

        Returns:
            ``loss``, the sum of ``loss/teacher_forcing`` and ``loss/rollout``, which are detached.

        Raises:
            ValueError: fewer frames than the rollout needs.
        """
        frames = features.shape[1]
        if frames < self.steps + 1:
            raise ValueError(f"a rollout of {self.steps} steps needs {self.steps + 1} frames, got {frames}")
        seen, target = features[:, :-1], features[:, 1:]
        states, actions = self._standard("state", states[:, :-1]), self._standard("action", actions)
        poses = self._poses(extrinsics)
        poses = None if poses is None else poses[:, :-1]
        out, cache = self.predictor(seen, actions, states, grid, poses, self.predictor.cache())
        forced = normalise(out)
        forcing = self._distance(forced, target)

        predicted, cache = [forced[:, :1]], cache.first(1)
        for k in range(1, self.steps):
            one = slice(k, k + 1)
            pose = None if poses is None else poses[:, one]
            out, cache = self.predictor(predicted[-1], actions[:, one], states[:, one], grid, pose, cache)
            predicted.append(normalise(out))
        if self.rollout_loss == "final":
            rolled = self._distance(predicted[-1], target[:, self.steps - 1 : self.steps])
        else:
            rolled = self._distance(torch.cat(predicted, 1), target[:, : self.steps])
        parts = {"loss/teacher_forcing": forcing.detach(), "loss/rollout": rolled.detach()}
        return {"loss": forcing + rolled, **parts}

    def see(
        self,
        features: Tensor,
        states: Tensor,
        actions: Tensor,
        grid: tuple[int, int],
        extrinsics: Tensor | None = None,
    ) -> Seen:
        """Read recorded frames: features (B, T, h*w, D), states (B, T, S), actions between them (B, T - 1, A) and, if
        the predictor uses them, extrinsics (B, T, 6)."""
        cache, poses = self.predictor.cache(), self._poses(extrinsics)
        if features.shape[1] > 1:
            before, done = self._standard("state", states[:, :-1]), self._standard("action", actions)
            views = None if poses is None else poses[:, :-1]
            _, cache = self.predictor(features[:, :-1], done, before, grid, views, cache)
        return Seen(features[:, -1], states[:, -1], cache, None if poses is None else poses[:, -1])

    def rollout(self, seen: Seen, actions: Tensor, grid: tuple[int, int]) -> Imagined:
        """Predict what ``actions`` (B, H, A) lead to. ``seen`` may have a batch of 1, which then serves all samples.

        The camera is taken to stay where it is.
        """
        x, state, cache = seen.features.unsqueeze(1), seen.state, seen.cache
        pose = None if seen.extrinsics is None else seen.extrinsics.unsqueeze(1)
        features, states = [], []
        for k in range(actions.shape[1]):
            action = actions[:, k]
            inputs = self._standard("action", action)[:, None], self._standard("state", state)[:, None]
            out, cache = self.predictor(x, *inputs, grid, pose, cache)
            x = normalise(out)
            state = self.robot.integrate(state, action)
            features.append(x[:, 0])
            states.append(state)
        return Imagined(torch.stack(features, 1), torch.stack(states, 1))

    def _poses(self, extrinsics: Tensor | None) -> Tensor | None:
        return extrinsics if self.predictor.use_extrinsics else None

    def _distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        gap = (predicted - target).abs()
        return gap.mean() if self.power == 1.0 else gap.pow(self.power).mean() / self.power

    def _standard(self, name: str, value: Tensor) -> Tensor:
        return (value - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_std")


def build_world(config: PosttrainConfig, statistics: tuple[Statistics, Statistics] | None = None) -> World:
    """The world model of a configuration whose ``encoder`` block is that of the frozen encoder; weights are fresh."""
    robot = robots.of(config.world.robot)
    predictor = ACPredictor(
        encoder_width=config.encoder.resolved().width,
        width=config.predictor.width,
        depth=config.predictor.depth,
        heads=config.predictor.heads,
        action_dim=robot.action_dim,
        state_dim=robot.state_dim,
        use_extrinsics=config.predictor.extrinsics,
        rope=config.predictor.rope,  # type: ignore[arg-type]
        attention=config.encoder.attention,  # type: ignore[arg-type]
    )
    return World(
        encoder=build_encoder(config.encoder),
        predictor=predictor,
        robot=robot,
        steps=config.world.steps,
        rollout=config.world.rollout,  # type: ignore[arg-type]
        power=config.world.power,
        statistics=statistics,
    )


def energy(features: Tensor, goal: Tensor) -> Tensor:
    """Mean |z - goal| over tokens and dimensions: (B,) of features (B, h*w, D) and a goal (h*w, D) or (B, h*w, D)."""
    return (features - goal).abs().flatten(1).mean(1)
