"""Encoders of other projects, as baselines: image models of timm, and models of Hugging Face ``transformers``.

``FrozenEncoder`` (``features.py``) treats them like our own. An image model sees each frame by itself: the grid of a
clip then has as many tubelets as frames. Class and register tokens are left out, tokens stand for places only.

Decisions. Both packages are imported when a baseline is opened, here and nowhere else. What decides the numbers (mean
and deviation of the pixels, sizes) is read from the model's own files; a model that does not say is refused, and so is
an architecture that has not been tested against its own code.
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vjepa_lab.batch import Grid
from vjepa_lab.tokens import Features, Statistics


class TimmFrames(nn.Module):
    """An image model of timm, applied to each frame; layers are its blocks or stages.

    Args:
        model: one with ``forward_intermediates``.
        statistics: of its pixels.
        crop: side of its images.
    """

    tubelet = 1
    frames = 16

    def __init__(self, *, model: nn.Module, statistics: Statistics, crop: int) -> None:
        super().__init__()
        info: Any = model.feature_info
        self.model = model
        self.statistics = statistics
        self.crop = crop
        self.depth = len(info)
        self.width: int = info[-1]["num_chs"]

    def forward(self, clip: Tensor, taps: Sequence[int]) -> tuple[Features, dict[int, Features]]:
        """Features of a normalised clip (B, 3, F, H, W), and those after the stages ``taps``.

        Raises:
            ValueError: the model is made for images of another size.
        """
        batch, _, frames, height, width = clip.shape
        fixed = _fixed_size(self.model)
        if fixed is not None and (height, width) != fixed:
            raise ValueError(f"timm: this model takes images of {fixed[0]} x {fixed[1]}, got {height} x {width}")
        stages = sorted({*taps, self.depth - 1})
        maps = self.model.forward_intermediates(  # type: ignore[operator]
            clip.transpose(1, 2).flatten(0, 1), indices=stages, norm=True, intermediates_only=True
        )
        found: dict[int, Features] = {}
        for stage, x in zip(stages, maps, strict=True):  # x (B * F, D, h, w)
            tokens = x.flatten(2).transpose(1, 2).reshape(batch, -1, x.shape[1])
            found[stage] = Features(tokens, Grid(frames, x.shape[2], x.shape[3]))
        return found[self.depth - 1], {i: found[i] for i in taps}


class HuggingFaceFrames(nn.Module):
    """DINOv2 of ``transformers``, applied to each frame; layers are its blocks."""

    tubelet = 1
    frames = 16

    def __init__(self, *, model: Any, statistics: Statistics, crop: int) -> None:
        super().__init__()
        self.model = model
        self.statistics = statistics
        self.crop = crop
        self.width: int = model.config.hidden_size
        self.depth: int = model.config.num_hidden_layers
        self.prefix: int = 1 + getattr(model.config, "num_register_tokens", 0)

    def forward(self, clip: Tensor, taps: Sequence[int]) -> tuple[Features, dict[int, Features]]:
        """Features of a normalised clip (B, 3, F, H, W), and those after the blocks ``taps`` through the final norm.

        Raises:
            ValueError: sides that are no multiples of the patch, what is over would not be seen.
        """
        batch, _, frames, height, width = clip.shape
        patch = self.model.config.patch_size
        if height % patch or width % patch:
            raise ValueError(f"hf: this model takes images of multiples of {patch} pixels, got {height} x {width}")
        grid = Grid(frames, height // patch, width // patch)
        out = self.model(pixel_values=clip.transpose(1, 2).flatten(0, 1), output_hidden_states=bool(taps))

        def features(x: Tensor) -> Features:
            return Features(x[:, self.prefix :].reshape(batch, grid.n, -1), grid)

        inner = {i: features(self.model.layernorm(out.hidden_states[i + 1])) for i in taps}
        return features(out.last_hidden_state), inner


class VideoMae(nn.Module):
    """VideoMAE of ``transformers``: clips of one length and size only, those of its position embedding."""

    def __init__(self, *, model: Any, statistics: Statistics, crop: int) -> None:
        super().__init__()
        if model.layernorm is None:
            raise ValueError(
                "hf: this VideoMAE was fine-tuned to average its tokens and has no final norm; use a pretrained one"
            )
        self.model = model
        self.statistics = statistics
        self.crop = crop
        self.width: int = model.config.hidden_size
        self.depth: int = model.config.num_hidden_layers
        self.frames: int = model.config.num_frames
        self.tubelet: int = self.frames

    def forward(self, clip: Tensor, taps: Sequence[int]) -> tuple[Features, dict[int, Features]]:
        """Features of a normalised clip (B, 3, F, H, W), and those after the blocks ``taps`` through the final norm.

        Raises:
            ValueError: a clip of another length or size.
        """
        config, (frames, height, width) = self.model.config, clip.shape[2:]
        if (frames, height, width) != (self.frames, self.crop, self.crop):
            raise ValueError(
                f"hf: this VideoMAE takes {self.frames} frames of {self.crop} x {self.crop}, got {frames} of "
                f"{height} x {width}"
            )
        side = self.crop // config.patch_size
        grid = Grid(frames // config.tubelet_size, side, side)
        out = self.model(pixel_values=clip.transpose(1, 2), output_hidden_states=bool(taps))
        inner = {i: Features(self.model.layernorm(out.hidden_states[i + 1]), grid) for i in taps}
        return Features(out.last_hidden_state, grid), inner


def of_timm(name: str, *, crop: int | None = None, pretrained: bool = True) -> TimmFrames:
    """Open an image model of timm by its name there.

    Args:
        crop: side of the images, where the model can be built for it; default: what it was trained on.
        pretrained: with its weights (downloaded at first use), or random ones.

    Raises:
        ValueError: timm has no such model, or one that gives no maps of features.
    """
    timm = _imported("timm", "timm")
    if not timm.is_model(name.partition(".")[0]) and ":" not in name:
        near = difflib.get_close_matches(name, timm.list_models(), 1)
        hint = f"did you mean '{near[0]}'?" if near else "timm.list_models() lists them"
        raise ValueError(f"timm: no model is named '{name}'; {hint}")
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"timm: {name} gives no maps of features (no forward_intermediates)")
    config = model.pretrained_cfg
    if crop is not None and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=crop)
    statistics = Statistics(tuple(config["mean"]), tuple(config["std"]))
    return TimmFrames(model=model, statistics=statistics, crop=crop or config["input_size"][-1])


def of_huggingface(name: str) -> HuggingFaceFrames | VideoMae:
    """Open VideoMAE, DINOv2 (with registers or without) from a folder or by its name on the Hugging Face hub.

    Raises:
        ValueError: ``transformers`` is not installed, another architecture, no preprocessor_config.json, or a file
            without some of the weights (which ``transformers`` would draw at random).
        OSError: neither a folder nor a name that can be reached, in the words of ``transformers``.
    """
    transformers = _imported("transformers", "transformers")
    config = transformers.AutoConfig.from_pretrained(name)
    kinds = {"videomae": VideoMae, "dinov2": HuggingFaceFrames, "dinov2_with_registers": HuggingFaceFrames}
    if config.model_type == "vjepa2":
        raise ValueError(f"hf:{name}: this is a V-JEPA 2 model: give it without 'hf:'")
    if config.model_type not in kinds:
        raise ValueError(f"hf:{name}: got a model of type {config.model_type}, expected one of {', '.join(kinds)}")
    processor = _processor(name)
    with torch.random.fork_rng(devices=[]):
        model, found = transformers.AutoModel.from_pretrained(name, output_loading_info=True)
    lacking = sorted({str(key) for key in (*found["missing_keys"], *found["mismatched_keys"])})
    if lacking:
        shown = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
        raise ValueError(f"hf:{name}: its file lacks, or has in another shape: {shown}")
    statistics = Statistics(tuple(processor["image_mean"]), tuple(processor["image_std"]))
    size = processor.get("crop_size", {}).get("height", config.image_size)
    crop = config.image_size if config.model_type == "videomae" else size
    return kinds[config.model_type](model=model, statistics=statistics, crop=crop)


def _processor(name: str) -> dict[str, Any]:
    """What preprocessor_config.json says."""
    file = Path(name) / "preprocessor_config.json"
    if not Path(name).is_dir():
        from transformers.utils.hub import cached_file

        file = Path(str(cached_file(name, file.name)))
    if not file.is_file():
        raise ValueError(f"hf:{name}: expected preprocessor_config.json, which says the mean and deviation of pixels")
    return json.loads(file.read_text(encoding="utf-8"))


def _fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """The only size of image that a timm model takes, None if it takes several."""
    embed: Any = getattr(model, "patch_embed", None)
    if embed is None or not getattr(embed, "strict_img_size", False):
        return None
    return tuple(embed.img_size)


def _imported(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ValueError(f"{module} is not installed: pip install {package}") from None
