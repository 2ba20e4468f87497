"""What do features still hold of the pixels? A decoder is trained on frozen tokens, and its pictures are measured.

The decoder reads the tokens of one frame, of no other, and no pixel: what it paints was in the features, or is what
frames look like on average. For that reason two predictors without features stand beside it, the mean of all frames and
the frame before; the second is hard to beat where little moves.

Yields ``psnr`` (per frame, then averaged), ``psnr_pooled`` (of the error averaged over all frames) and ``ssim``; the
same under ``mean_frame/`` and ``copy_previous/``; and the difference in PSNR to each of the two, frame by frame, under
``over/``. Frames without a frame before them are left out of what concerns the latter. Intervals are over videos or
episodes, whose frames are not independent.

Decisions.
- A frame becomes tokens by ``feed``: ``dup``, the frame repeated to fill a tubelet, as world models encode what they
  see; ``clip4``, a clip of ``frames`` frames at once, in which a tubelet's tokens stand for its frames and a learned
  vector says which is wanted.
- All encoders get the same budget: steps, frames per step, learning rate, and with the convolutional form about 17 M
  parameters (released figures of this kind do not say how theirs was built). Of several ``lrs`` the one is taken whose
  decoder paints a held-out part of the fitted videos best, and ``lr`` says which; the test is seen once.
- Tokens and pixels of a split lie in main memory: 4 N D + 3 H W bytes per frame.
- Frames are of the size that the encoder sees, without augmentation.

Reference: V-JEPA 2 paper, appendix B.3 (the transformer: ``form: vit, lrs: [5.0e-4], weight_decay: 0.1, warmup: 2000,
clip: 1.0, frames_per_step: 1024, steps: 150000``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vjepa_lab import dist
from vjepa_lab.data.streams import Demand, Stream, count_problem, fit_select_test
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.decoder import WIDTHS, ConvDecoder, Scale, VitDecoder
from vjepa_lab.probes import _painter
from vjepa_lab.probes._fidelity import psnr, squared_error, ssim
from vjepa_lab.probes._frames import Feed, Frames, moments, read
from vjepa_lab.probes._painter import Plan
from vjepa_lab.probes._stats import Estimate, accuracy, bootstrap, over_seeds
from vjepa_lab.registry import PROBES
from vjepa_lab.report import Section, gallery

_SHOWN = 8
"frames in the report, one of each clip"
_SIDE = 112
"pixels on the page, at least"
_AT_ONCE = 64
"frames painted and measured at a time"


class Score(NamedTuple):
    """How well frames are painted, each by itself."""

    error: Tensor
    "float64 (n,) mean squared"
    ssim: Tensor
    "float64 (n,)"


@PROBES.register
@dataclass
class Decode:
    """Pixels from frozen tokens: PSNR and SSIM of held-out frames."""

    every: int = 10_000
    "steps between two measurements during training"
    batch: int = 16
    "clips per batch on each rank, while they are encoded"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "synthetic", "split": "val"})
    "where the decoder learns, and is measured on the clips that follow"
    test: dict[str, Any] = field(default_factory=dict)
    "another source to measure on: that of the held-out tasks"
    robot: dict[str, Any] = field(default_factory=dict)
    "description of the robot, where the sources are of episodes"
    fit_clips: int = 512
    "clips to learn and to choose on; 0: all, where test is another source"
    test_clips: int = 128
    "clips to report on; 0: all that are left"
    frames: int = 4
    "frames of a clip that are decoded"
    layer: int = -1
    "block (from 0) whose tokens are read; -1: the output of the encoder"
    feed: Feed = "dup"
    "how a frame becomes tokens: dup | clip4"
    form: Literal["conv", "vit"] = "conv"
    "of the decoder: conv | vit"
    widths: list[int] = field(default_factory=lambda: list(WIDTHS))
    "conv: channels of the stem and of each doubling; the picture is the tokens' grid, doubled so often"
    groups: int = 32
    "conv: of the group norms"
    dim: int = 1024
    "vit: width"
    depth: int = 24
    "vit: blocks"
    heads: int = 16
    "vit: attention heads"
    patch: int = 16
    "vit: side of the square that a token paints"
    scale: str | None = None
    "of the tokens: standard | layer | none; null: standard for conv, layer for vit"
    steps: int = 20_000
    "updates of the decoder"
    frames_per_step: int = 64
    "frames in each of them"
    lrs: list[float] = field(default_factory=lambda: [1e-3])
    "peak learning rate, from there to 0 along a cosine; of several the best on held-out clips is taken"
    warmup: int = 0
    "steps in which the learning rate rises"
    weight_decay: float = 0.01
    "of AdamW"
    clip: float | None = None
    "largest norm of the gradient"
    seeds: int = 3
    "decoders, from other weights and in another order"
    cap: float = 60.0
    "largest PSNR of a frame, in dB: an exact one has no finite PSNR"

    def __post_init__(self) -> None:
        self._pictures: dict[str, Tensor] = {}
        wrong = count_problem(self.fit_clips, self.test_clips, elsewhere=bool(self.test))
        problems = [wrong] if wrong else []
        for name in ("steps", "frames_per_step", "seeds", "frames", "batch"):
            if getattr(self, name) < 1:
                problems.append(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not self.lrs or min(self.lrs) <= 0:
            problems.append(f"lrs: got {self.lrs}, expected at least one above 0")
        if self.warmup >= self.steps >= 1:
            problems.append(f"warmup: got {self.warmup}, expected fewer than steps ({self.steps})")
        if self.scale not in (None, "standard", "layer", "none"):
            problems.append(f"scale: got '{self.scale}', expected standard, layer, none or null")
        if problems:
            raise ValueError("probe decode: " + "; ".join(problems))

    def demands(self) -> dict[str, Demand]:
        fit = Demand(self.source, count=self.fit_clips or None, frames=self.frames, robot=self.robot or None)
        splits = fit_select_test(fit, test=self.test, count=self.test_clips)
        return splits if len(self.lrs) > 1 else {"fit": fit, "test": splits["test"]}

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        frames = {split: read(encoder, stream, feed=self.feed, layer=self.layer) for split, stream in streams.items()}
        test, blind = frames["test"], _blind(frames["fit"], frames["test"])
        lr, decoders = self.decoders(encoder, frames, streams["fit"].seed)
        if lr is not None:
            yield "lr", Estimate(lr)
        scores = [self.judge(decoder, encoder, test) for decoder in decoders]
        others = {name: score(painted, test.pixels) for name, painted in blind.items()}
        yield from self._figures(test, scores, others)
        self._show(encoder, decoders[0], test, blind)

    def sections(self) -> list[Section]:
        """What the report shows of the last run."""
        if not self._pictures:
            return []
        rows = {name: list(row.permute(0, 2, 3, 1)) for name, row in self._pictures.items()}
        scale = max(1.0, _SIDE / self._pictures["frame"].shape[-1])
        said = "Held-out frames, what the decoder paints of their features, and what is painted without features."
        return [Section("Decoded frames", gallery(rows, scale=scale, caption=said))]

    def decoders(
        self, encoder: FrozenEncoder, frames: Mapping[str, Frames], seed: int
    ) -> tuple[float | None, list[nn.Module]]:
        """One decoder for each seed, and the learning rate that was chosen where there was a choice."""

        def trained(lr: float, number: int) -> nn.Module:
            plan = Plan(self.steps, self.frames_per_step, lr, self.warmup, self.weight_decay, self.clip)
            own = dist.derive(seed, "decode", number)
            return _painter.train(lambda: self.build(frames["fit"]), frames["fit"], plan, encoder=encoder, seed=own)

        if len(self.lrs) == 1:
            return None, [trained(self.lrs[0], number) for number in range(self.seeds)]
        first = {lr: trained(lr, 0) for lr in self.lrs}
        reached = {
            lr: psnr(self.judge(decoder, encoder, frames["select"]).error, self.cap).mean().item()
            for lr, decoder in first.items()
        }
        best = max(reached, key=lambda lr: reached[lr])
        return best, [first[best], *(trained(best, number) for number in range(1, self.seeds))]

    def build(self, fit: Frames) -> nn.Module:
        """A decoder for frames like these, its scale fitted to them; weights come from the global numbers."""
        width, size = fit.tokens.shape[-1], fit.pixels.shape[-1]
        chosen: Any = self.scale or ("standard" if self.form == "conv" else "layer")
        scale: Scale = chosen
        if self.form == "conv":
            decoder = ConvDecoder(
                width=width, size=size, widths=self.widths, groups=self.groups, frames=fit.per, scale=scale
            )
        else:
            decoder = VitDecoder(
                width=width,
                size=size,
                dim=self.dim,
                depth=self.depth,
                heads=self.heads,
                patch=self.patch,
                frames=fit.per,
                scale=scale,
            )
        if scale == "standard":
            decoder.scale.fit(*moments(fit.tokens))
        return decoder

    @torch.no_grad()
    def judge(self, decoder: nn.Module, encoder: FrozenEncoder, frames: Frames) -> Score:
        """How well every frame is painted; the pictures are not kept."""
        parts = []
        for at in torch.arange(len(frames.pixels)).split(_AT_ONCE):
            painted = _painter.paint(decoder, frames, at, encoder=encoder)
            parts.append(score(painted, frames.pixels[at].to(painted.device)))
        return Score(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _figures(
        self, test: Frames, scores: list[Score], others: Mapping[str, Score]
    ) -> Iterator[tuple[str, Estimate]]:
        everywhere = torch.ones_like(test.first)
        yield from _figures("", [self._measured(s, test.unit, everywhere) for s in scores])
        for name, other in others.items():
            where = ~test.first if name == "copy_previous" else everywhere
            if not where.any():
                continue
            yield from _figures(f"{name}/", [self._measured(other, test.unit, where)])
            theirs = psnr(other.error, self.cap)
            gains = [accuracy((psnr(s.error, self.cap) - theirs)[where], test.unit[where]) for s in scores]
            yield f"over/{name}", over_seeds(gains)

    def _measured(self, found: Score, unit: Tensor, where: Tensor) -> dict[str, Estimate]:
        error, unit = found.error[where], unit[where]
        rows = torch.stack([error, torch.ones_like(error)], 1)
        return {
            "psnr": accuracy(psnr(error, self.cap), unit),
            "psnr_pooled": bootstrap(rows, unit, lambda s: psnr(s[:, 0] / s[:, 1], self.cap)),
            "ssim": accuracy(found.ssim[where], unit),
        }

    @torch.no_grad()
    def _show(self, encoder: FrozenEncoder, decoder: nn.Module, test: Frames, blind: Mapping[str, Tensor]) -> None:
        """Keep rows of pictures (k, 3, H, W): the last frame of each of the first clips."""
        last = torch.nonzero(test.first.roll(-1)).flatten()[:_SHOWN]
        painted = _painter.paint(decoder, test, last, encoder=encoder).cpu()
        rows = {"decoded": painted} | {name.replace("_", " "): frames[last] for name, frames in blind.items()}
        self._pictures = {"frame": test.pixels[last]} | rows


def score(painted: Tensor, truth: Tensor) -> Score:
    """Of frames (n, 3, H, W), uint8 or in [0, 1], against what they should be; a part at a time."""
    errors, likenesses = [], []
    for part, true in zip(painted.split(_AT_ONCE), truth.split(_AT_ONCE), strict=True):
        a, b = _unit(part), _unit(true)
        errors.append(squared_error(a, b))
        likenesses.append(ssim(a, b))
    return Score(torch.cat(errors), torch.cat(likenesses))


def _unit(pixels: Tensor) -> Tensor:
    return pixels / 255 if pixels.dtype == torch.uint8 else pixels


def _blind(fit: Frames, test: Frames) -> dict[str, Tensor]:
    """What can be painted without features, (n * F, 3, H, W): the mean frame of ``fit``, the frame before."""
    mean = torch.stack([part.double().sum(0) for part in fit.pixels.split(_AT_ONCE)]).sum(0) / len(fit.pixels) / 255
    return {
        "mean_frame": mean.float().expand(len(test.pixels), -1, -1, -1),
        "copy_previous": test.pixels.roll(1, 0),  # of first frames another clip's, which are not counted
    }


def _figures(prefix: str, measured: list[dict[str, Estimate]]) -> Iterator[tuple[str, Estimate]]:
    for name in measured[0]:
        yield f"{prefix}{name}", over_seeds([m[name] for m in measured])
