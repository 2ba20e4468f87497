"""Small networks of both families, and files laid out as each of their writers does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vjepa_lab.config import EncoderConfig, PredictorConfig, PretrainConfig
from vjepa_lab.jepa import build_encoder, build_predictor


def small(**encoder: Any) -> PretrainConfig:
    """A model of 32 dimensions in two blocks (V-JEPA 2.1: in four, one for each level)."""
    newer = encoder.get("family") == "vjepa2.1"
    sizes = {"width": 32, "depth": 4 if newer else 2, "heads": 2, "frames": 4, "crop": 32}
    rope = {"rope": "exact", "interpolate": True} if newer else {"rope": "released"}
    predictor = PredictorConfig(width=24, depth=2, heads=2, mask_tokens=3, levels=4 if newer else 1)
    return PretrainConfig(encoder=EncoderConfig(**{**sizes, **rope, **encoder}), predictor=predictor)


def noisy(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Weights of a network, each disturbed so that none is zero or one by initialisation."""
    rng = torch.Generator().manual_seed(seed)
    return {k: v + 0.05 * torch.randn(v.shape, generator=rng) for k, v in network.state_dict().items()}


@pytest.fixture(scope="session")
def weights() -> Callable[[str], dict[str, dict[str, Tensor]]]:
    """Bare weights by family: encoder, target_encoder, predictor."""
    made = {}
    for family in ("vjepa2", "vjepa2.1"):
        config = small(family=family)
        encoder = build_encoder(config.encoder)
        networks = {"encoder": encoder, "target_encoder": encoder, "predictor": build_predictor(config)}
        made[family] = {name: noisy(network, seed) for seed, (name, network) in enumerate(networks.items())}
    return lambda family: {name: dict(tensors) for name, tensors in made[family].items()}


@pytest.fixture
def released(weights) -> Callable[..., dict[str, Any]]:
    """What the released training code saves."""

    def make(family: str = "vjepa2", prefix: str = "module.backbone.") -> dict[str, Any]:
        networks = {
            name: {prefix + key: value for key, value in tensors.items()} for name, tensors in weights(family).items()
        }
        more = {"opt": {}, "scaler": None, "epoch": 3, "loss": 0.5, "batch_size": 2, "world_size": 1, "lr": 1e-3}
        return {**networks, **more}

    return make


@pytest.fixture
def save(tmp_path) -> Callable[[Any], Path]:
    """Writes an object as a checkpoint file."""

    def write(contents: Any, name: str = "weights.pt") -> Path:
        torch.save(contents, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def given() -> dict[str, int]:
    """What shapes cannot tell of these models."""
    return {"heads": 2, "predictor_heads": 2}
