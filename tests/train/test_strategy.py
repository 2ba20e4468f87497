"""Checkpointing and compilation change neither names nor numbers; missing devices are refused."""

import pytest
import torch

from vjepa_lab import dist, masks
from vjepa_lab.config import TrainerConfig
from vjepa_lab.registry import MASKS
from vjepa_lab.train import strategy
from vjepa_lab.train.modules import PretrainModule


def gradients(module, config):
    strategy.parallelise(module.jepa, module.config.trainer)
    pairs = masks.sample([MASKS.build(e) for e in config.masks], module.grid, dist.rng(0, 0, batch=2))
    clip = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    out = module.jepa(clip, pairs)
    out["loss"].backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_activation_checkpointing_gives_the_same_gradients_under_the_same_names(tiny):
    plain, config = tiny(), tiny("trainer.checkpoint_activations=true")
    expected, got = gradients(PretrainModule(plain), plain), gradients(PretrainModule(config), config)
    assert got.keys() == expected.keys()
    assert all(torch.allclose(got[name], expected[name], atol=1e-7) for name in got)


def test_compiled_blocks_keep_their_names(tiny):
    module = PretrainModule(tiny())
    names = set(module.state_dict())
    strategy.parallelise(module.jepa, TrainerConfig(compile=True, checkpoint_activations=True))
    assert set(module.state_dict()) == names


def test_an_accelerator_that_is_not_there_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"trainer\.accelerator=gpu.*cpu"):
            strategy.device_kind(TrainerConfig(accelerator="gpu"))
    assert strategy.device_kind(TrainerConfig(accelerator="cpu")) == "cpu"
    assert strategy.device_count(TrainerConfig(devices=0), "cpu") == 1
