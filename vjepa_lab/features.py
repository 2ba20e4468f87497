"""Frozen features: one class behind which every encoder gives tokens, whoever trained it.

``FrozenEncoder.of(name)`` opens weights of ours, released V-JEPA 2 and 2.1 files, and the baselines of
``baselines.py``. What it gives never has a gradient and never changes the encoder, its mode or the caller's random
numbers.

Letters: B clips, V views, F frames, W windows, N = t*h*w tokens of the grid, D width.

Decisions.
- Clips are uint8, or floats normalised by the statistics of ImageNet as the training data are; each encoder's own
  statistics are applied here. Features are float32, also where the network computes in less (``dtype``).
- A clip of fewer frames than the encoder takes holds its last frame. A single image is thereby a clip of the repeated
  frame (as in the released evaluations), but for encoders with an image branch (V-JEPA 2.1), which use that.
- Tokens of the future are asked of the predictor at positions past the end of the clip. V-JEPA 2.1 reads all levels
  and predicts all levels; the features are the last ``width`` channels on both sides, as released.

Reference: V-JEPA 2 paper, sections 5 and 6; released files evals/action_anticipation_frozen/modelcustom and
evals/video_classification_frozen/modelcustom.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from vjepa_lab import baselines, weights
from vjepa_lab.batch import Grid
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor
from vjepa_lab.tokens import IMAGENET, Features, Future, Last, Pool, Statistics, Windows, pooled, window_starts


class Backbone(Protocol):
    """What a network other than ``Encoder`` must be: a module with these attributes."""

    width: int
    depth: int
    "layers that can be tapped"
    tubelet: int
    "fewest frames of a clip"
    statistics: Statistics

    def __call__(self, clip: Tensor, taps: Sequence[int]) -> tuple[Features, dict[int, Features]]: ...


class FrozenEncoder(nn.Module):
    """An encoder in evaluation mode, without gradients, with all ways to get features of it.

    The networks that are given are frozen in place: hand over a copy of one that is still being trained.

    Args:
        encoder: an encoder of ours, or a baseline.
        predictor: needed for ``future`` alone.
        frames, crop: length and side of the clips that the encoder is meant for; a note for those who make the clips.
        dtype: precision of the computation: float32, or bfloat16 or float16 by autocast.
        freeze: take gradients from the networks and put them in evaluation mode, for good; False looks at networks that
            train, whose mode is then the caller's.
    """

    def __init__(
        self,
        *,
        encoder: Encoder | Backbone,
        predictor: Predictor | None = None,
        frames: int = 16,
        crop: int = 256,
        dtype: torch.dtype = torch.float32,
        freeze: bool = True,
    ) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"dtype: got {dtype}, expected torch.float32, bfloat16 or float16")
        self.encoder = encoder
        self.predictor = predictor
        self.frames = frames
        self.crop = crop
        self.dtype = dtype
        self.statistics = IMAGENET if isinstance(encoder, Encoder) else encoder.statistics
        self.tubelet: int = encoder.tubelet
        self.width: int = encoder.width
        self.depth: int = encoder.depth
        if freeze:
            self.requires_grad_(False)
            self.train(False)

    @classmethod
    def of(
        cls,
        checkpoint: str,
        *,
        encoder: weights.EncoderChoice = "auto",
        frames: int | None = None,
        crop: int | None = None,
        heads: int | None = None,
        predictor_heads: int | None = None,
        rope: str | None = None,
        interpolate: bool | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> FrozenEncoder:
        """Open an encoder.

        Args:
            checkpoint: whatever ``vjepa_lab.load`` opens (a run's checkpoint, an export, a released file or its name,
                a Hugging Face folder of V-JEPA 2), ``timm:NAME``, or ``hf:FOLDER_OR_NAME`` of VideoMAE or DINOv2.
            encoder: which of the encoders of a file: auto | target | online | ema.
            frames, crop: in place of what the file says.
            heads, predictor_heads, rope, interpolate: what shapes cannot tell, see ``vjepa_lab.load``.
            dtype: see the class.
            device: where to put it.

        Raises:
            ValueError: the file cannot be used, holds no encoder, or an argument does not apply to a baseline.
        """
        kind, colon, name = checkpoint.partition(":")
        if colon and kind in ("timm", "hf"):
            given = {"heads": heads, "predictor_heads": predictor_heads, "rope": rope, "interpolate": interpolate}
            foreign = [key for key, value in given.items() if value is not None]
            foreign += [] if encoder == "auto" else ["encoder"]
            if foreign:
                raise ValueError(f"{checkpoint}: {', '.join(foreign)}: not for baselines, leave unset")
            opened = baselines.of_timm(name, crop=crop) if kind == "timm" else baselines.of_huggingface(name)
            network, predictor = opened, None
            frames, crop = frames or opened.frames, crop or opened.crop
        else:
            loaded = weights.load(
                checkpoint,
                encoder=encoder,
                heads=heads,
                predictor_heads=predictor_heads,
                frames=frames,
                crop=crop,
                rope=rope,
                interpolate=interpolate,
            )
            if loaded.encoder is None:
                raise ValueError(f"{checkpoint}: holds no encoder")
            network, predictor = loaded.encoder, loaded.predictor
            frames, crop = loaded.config.encoder.frames, loaded.config.encoder.crop
        return cls(encoder=network, predictor=predictor, frames=frames, crop=crop, dtype=dtype).to(device)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stays in evaluation mode, also as a part of a module that trains."""
        return super().train(False)

    def fingerprint(self) -> str:
        """Hash of the encoder's weights, by name, type, shape and content (sha256, hexadecimal)."""
        return fingerprint(self.get_submodule("encoder"), prefix="encoder.")

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def tokens(self, clip: Tensor) -> Features:
        """Features of a clip (B, 3, F, H, W), uint8 or normalised: tokens (B, N, D) in raster order, and their grid.

        Raises:
            ValueError: the clip has another shape or type, or one that the encoder cannot take.
        """
        return self._encode(clip)[0]

    def taps(self, clip: Tensor, layers: Sequence[int]) -> dict[int, Features]:
        """Features after chosen blocks (from 0), each through the norm that the encoder has for it.

        Raises:
            ValueError: as ``tokens``, or there is no such block.
        """
        wrong = [i for i in layers if not 0 <= i < self.depth]
        if wrong:
            raise ValueError(f"layers: expected blocks in 0..{self.depth - 1}, got {wrong}")
        return self._encode(clip, layers)[1]

    def layers(self, clip: Tensor, layers: Sequence[int]) -> dict[int, Features]:
        """As ``taps``, where -1 is the output of the encoder, all in one pass.

        Raises:
            ValueError: as ``taps``.
        """
        inner = [i for i in layers if i != -1]
        wrong = [i for i in inner if not 0 <= i < self.depth]
        if wrong:
            raise ValueError(f"layers: expected -1 (the output) or blocks in 0..{self.depth - 1}, got {wrong}")
        last, tapped = self._encode(clip, inner)
        return {i: last if i == -1 else tapped[i] for i in layers}

    def pool(self, features: Features, pool: Pool, cells: int = 1) -> Tensor:
        """Average tokens, see ``tokens.pooled``; a network may say how its own are put together, whatever ``cells``."""
        own = getattr(self.encoder, "pool", None)
        return pooled(features, pool, cells) if own is None else own(features, pool)

    def pooled(self, clip: Tensor, pool: Pool = "mean") -> Tensor:
        """Features of a clip averaged over all tokens (B, D), over each tubelet (B, t, D), or not at all (B, N, D)."""
        return self.pool(self.tokens(clip), pool)

    def image(self, images: Tensor, *, frames: int | None = None) -> Features:
        """Features of single images (B, 3, H, W), uint8 or normalised.

        Args:
            frames: show the image as a clip of so many frames (the released ImageNet probes: 16). None: as few as
                the encoder takes, through its image branch where it has one.
        """
        if images.ndim != 4:
            raise ValueError(f"images: expected (B, 3, H, W), got {tuple(images.shape)}")
        return self.tokens(images.unsqueeze(2).expand(-1, -1, frames or 1, -1, -1))

    def views(self, clips: Tensor, *, join: Literal["tokens", "mean"] = "tokens") -> Tensor:
        """Features of several views of each clip (B, V, 3, F, H, W): crops, or clips of one video.

        Args:
            join: ``tokens`` puts the tokens of all views behind each other, (B, V * N, D), for a head that attends to
                all of them; ``mean`` averages token by token, (B, N, D).
        """
        if clips.ndim != 6:
            raise ValueError(f"clips: expected (B, V, 3, F, H, W), got {tuple(clips.shape)}")
        if join not in ("tokens", "mean"):
            raise ValueError(f"join: got '{join}', expected tokens or mean")
        tokens = self.tokens(clips.flatten(0, 1)).tokens.unflatten(0, clips.shape[:2])  # (B, V, N, D)
        return tokens.flatten(1, 2) if join == "tokens" else tokens.mean(1)

    def windows(
        self,
        video: Tensor,
        *,
        frames: int | None = None,
        stride: int | None = None,
        last: Last = "shift",
        pool: Pool = "none",
        batch: int = 8,
    ) -> Windows:
        """Features of a long video (B, 3, F, H, W), cut into windows; it may lie in main memory as uint8.

        Args:
            frames: length of a window; ``self.frames`` if not given.
            stride: frames from one window to the next; fewer than ``frames`` overlap. Default: ``frames``.
            last: what fills the last window, see ``window_starts``.
            pool: see ``pooled``.
            batch: clips at once.
        """
        frames = frames or self.frames
        starts = window_starts(video.shape[2], frames, stride or frames, last)
        end = max(starts) + frames
        held = torch.arange(end).clamp_(max=video.shape[2] - 1)
        pieces = [(row, start) for row in range(video.shape[0]) for start in starts]
        out, grid = [], Grid(0, 0, 0)
        for group in _groups(pieces, batch):
            clips = [video[row].index_select(1, held[s : s + frames].to(video.device)) for row, s in group]
            features = self.tokens(torch.stack(clips))
            out.append(pooled(features, pool))
            grid = features.grid
        return Windows(torch.cat(out).unflatten(0, (video.shape[0], len(starts))), starts, grid)

    @torch.no_grad()
    def future(
        self,
        clip: Tensor,
        *,
        seconds: float | Tensor,
        fps: float,
        tubelets: int = 1,
        steps: int = 1,
        mask_token: int = 0,
    ) -> Future:
        """Features of a clip (B, 3, F, H, W) and, by the predictor, of the frames ``seconds`` after its end.

        Args:
            seconds: time from the end of the clip, one number or (B,); what is less than a tubelet is cut off.
            fps: frames per second of the clip.
            tubelets: how many to predict, one after the other in time, at once.
            steps: repeat so often, each time with the prediction appended to the context, whose oldest tokens leave.
                As released, positions do not move along: every step looks ``seconds`` past its own context.
            mask_token: which of the predictor's mask tokens. 0 is the one that training uses. The released
                anticipation probes were trained with 1, which is an untrained vector of zeros: parity with them needs
                ``mask_token=1``.

        Raises:
            ValueError: there is no predictor, an argument is out of range, or several steps are asked of a predictor
                that does not give what it reads (distilled V-JEPA 2.1).
        """
        predictor = self.predictor
        if predictor is None:
            raise ValueError("future: this encoder came without a predictor")
        if tubelets < 1 or steps < 1:
            raise ValueError(f"future: expected tubelets and steps of at least 1, got {tubelets} and {steps}")
        assert isinstance(self.encoder, Encoder), "only these come with a predictor"
        patches = self.encoder.cut(self._prepared(clip))
        grid, (batch, device) = patches.grid, (clip.shape[0], self.device)
        ahead = torch.as_tensor(seconds, dtype=torch.float64, device=device).expand(batch)
        if bool((ahead < 0).any()):
            raise ValueError(f"seconds: expected 0 or more, got {seconds}")
        skipped = (ahead * fps / self.encoder.tubelet + 1e-6).long()  # (B,) tubelets
        plane = grid.h * grid.w
        context_ids = torch.arange(grid.n, device=device).expand(batch, -1)
        ids = grid.n + plane * skipped[:, None] + torch.arange(plane * tubelets, device=device)
        extended = Grid(grid.t + int(skipped.max()) + tubelets, grid.h, grid.w)
        with self._autocast():
            read = self.encoder(patches, levels=predictor.levels > 1)
            context, said = read[..., -self.width :].float(), []
            for step in range(steps):
                out = predictor(read, context_ids, ids, extended, mask_token)
                out = out[0] if isinstance(out, tuple) else out
                said.append(out[..., -self.width :].float())
                if step + 1 < steps:
                    if out.shape[-1] != read.shape[-1]:
                        raise ValueError(
                            f"steps: this predictor reads features of width {read.shape[-1]} and gives "
                            f"{out.shape[-1]}: expected steps=1, got {steps}"
                        )
                    read = torch.cat((read, out), 1)[:, -grid.n :]
        return Future(context, torch.cat(said, 1), ids)

    @torch.no_grad()
    def _encode(self, clip: Tensor, taps: Sequence[int] = ()) -> tuple[Features, dict[int, Features]]:
        clip = self._prepared(clip)
        with self._autocast():
            if not isinstance(self.encoder, Encoder):
                last, tapped = self.encoder(clip, taps)
            else:
                patches = self.encoder.cut(clip)
                out = self.encoder(patches, taps=taps)
                tokens, inner = out if isinstance(out, tuple) else (out, {})
                last = Features(tokens, patches.grid)
                tapped = {i: Features(x, patches.grid) for i, x in inner.items()}
        return _float(last), {i: _float(x) for i, x in tapped.items()}

    def _prepared(self, clip: Tensor) -> Tensor:
        """The clip on the device, normalised for this encoder, with at least as many frames as it takes."""
        if clip.ndim != 5 or clip.shape[1] != 3 or clip.shape[2] < 1:
            raise ValueError(f"clip: expected (B, 3, F, H, W), got {tuple(clip.shape)}")
        clip = clip.to(self.device, non_blocking=True)
        if clip.dtype == torch.uint8:
            clip = self.statistics.normalise(clip)
        elif not clip.is_floating_point():
            raise ValueError(f"clip: expected uint8 or normalised floats, got {clip.dtype}")
        elif self.statistics != IMAGENET:
            clip = self.statistics.normalise(IMAGENET.restore(clip))
        else:
            clip = clip.float()
        missing = self.tubelet - clip.shape[2]
        if isinstance(self.encoder, Encoder):
            image = self.encoder.images and clip.shape[2] == 1
            units = (self.tubelet, self.encoder.patch, self.encoder.patch)
            over = [size % unit for size, unit in zip(clip.shape[2:], units, strict=True)]
            if any(over[1:]) or (missing < 0 and over[0]):  # cut off in silence otherwise
                raise ValueError(
                    f"clip: expected multiples of {units[0]} frames x {units[1]} x {units[2]} pixels, got "
                    f"{clip.shape[2]} frames x {clip.shape[3]} x {clip.shape[4]}"
                )
            missing = 0 if image else missing
        if missing <= 0:
            return clip
        return torch.cat((clip, clip[:, :, -1:].expand(-1, -1, missing, -1, -1)), 2)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def fingerprint(module: nn.Module, *, prefix: str = "") -> str:
    """Hash of the weights of a module, by name (behind ``prefix``), type, shape and content (sha256, hexadecimal)."""
    digest = hashlib.sha256()
    for name, x in module.state_dict().items():
        digest.update(f"{prefix}{name} {x.dtype} {list(x.shape)}".encode())
        digest.update(x.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def device_of(name: str) -> torch.device:
    """The device that a configuration names; ``auto`` is the first GPU if there is one.

    Raises:
        ValueError: a GPU, where torch sees none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device: got {name}, but torch sees no GPU here")
    return torch.device(name)


def _float(features: Features) -> Features:
    return features._replace(tokens=features.tokens.float())


def _groups(pieces: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for i in range(0, len(pieces), size):
        yield pieces[i : i + size]
