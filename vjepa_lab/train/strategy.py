"""How a model is spread over devices: one function with one visible order, and the Trainer's strategy.

Order: activation checkpointing, then compilation of each block, then sharding of each block, then of the three roots.
Models know nothing of it. FSDP1 and DeepSpeed are refused when the configuration is read (``validate.py``).
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.utils.checkpoint import checkpoint

from vjepa_lab.config import TrainerConfig
from vjepa_lab.jepa import JEPA
from vjepa_lab.world import World

TIMEOUT = timedelta(minutes=30)


class Anatomy(NamedTuple):
    """The parts of a model as far as spreading it is concerned."""

    trained: list[nn.Module]
    "blocks with a backward pass"
    frozen: list[nn.Module]
    "blocks without"
    roots: list[nn.Module]
    "what holds the trained blocks"
    frozen_root: nn.Module
    "what holds the others"


def anatomy(network: nn.Module) -> Anatomy:
    """Blocks and roots of the models that are trained here."""
    if isinstance(network, World):
        trained, frozen = network.predictor.predictor_blocks, network.encoder.blocks
        return Anatomy([*trained], [*frozen], [network.predictor], network.encoder)
    assert isinstance(network, JEPA)
    trained = [*network.context.blocks, *network.predictor.predictor_blocks]
    return Anatomy(trained, [*network.target.blocks], [network.context, network.predictor], network.target)


def parallelise(network: nn.Module, config: TrainerConfig, mesh: Any = None, *, head: nn.Module | None = None) -> None:
    """Checkpoint, compile and shard a model in place. ``mesh`` is Lightning's device mesh, None without FSDP2.

    Args:
        head: a small module that is trained with the network, and sharded as it is.
    """
    parts = anatomy(network)
    if config.checkpoint_activations:
        for block in parts.trained:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if config.compile:
        for block in (*parts.trained, *parts.frozen):
            block.compile()
    if mesh is not None:
        _shard(parts, mesh["data_parallel"], [] if head is None else [head])


def _shard(parts: Anatomy, mesh: Any, heads: list[nn.Module]) -> None:
    from torch.distributed.fsdp import fully_shard

    for module in (*parts.trained, *parts.frozen, *parts.roots, *heads):
        fully_shard(module, mesh=mesh)
    # What is frozen has no backward pass that would reshard its root. Left gathered, the target encoder's parameters
    # would be plain tensors, those of the context encoder sharded, and the EMA update would fail on the mixture.
    fully_shard(parts.frozen_root, mesh=mesh, reshard_after_forward=True)


def freeze_unused(jepa: JEPA, *, images: bool) -> None:
    """Turn off what no loss reaches, since DDP would wait for its gradients: mask tokens after the first, and of a
    V-JEPA 2.1 model without images the image branch, with one level the norms of the others."""
    unused: list[nn.Parameter] = list(jepa.predictor.mask_tokens)[1:]
    for network in (jepa.context, jepa.predictor):
        if network.images and not images:
            unused.append(network.img_mod_embed)
    if jepa.context.images and not images:
        unused.extend(jepa.context.patch_embed_img.parameters())
    if jepa.context.levels and jepa.predictor.levels == 1:
        unused.extend(p for norm in jepa.context.norms_block[:-1] for p in norm.parameters())
    for parameter in unused:
        parameter.requires_grad_(False)


def trainer_strategy(config: TrainerConfig, *, accelerator: str, processes: int) -> Strategy | str:
    """Strategy of the Trainer for ``processes`` ranks in all."""
    backend = "nccl" if accelerator == "cuda" else "gloo"
    if config.strategy == "fsdp2" and (processes > 1 or accelerator == "cuda"):
        return ModelParallelStrategy(
            data_parallel_size=processes,  # left on "auto", it would make tensor-parallel groups across a node
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,  # one ordinary file, which every strategy resumes
            process_group_backend=backend,
            timeout=TIMEOUT,
        )
    if processes == 1:
        return "auto"
    return DDPStrategy(
        process_group_backend=backend,
        timeout=TIMEOUT,
        gradient_as_bucket_view=True,
        find_unused_parameters=False,
    )


def device_kind(config: TrainerConfig) -> str:
    """cuda | mps | cpu: what ``trainer.accelerator`` means on this machine.

    Raises:
        ValueError: the accelerator that was asked for is not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if config.accelerator == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if config.accelerator == "gpu" and not cuda:
        raise ValueError("trainer.accelerator=gpu: torch sees no CUDA device; use trainer.accelerator=cpu")
    if config.accelerator == "mps" and not mps:
        raise ValueError("trainer.accelerator=mps: torch sees no MPS device; use trainer.accelerator=cpu")
    return {"gpu": "cuda"}.get(config.accelerator, config.accelerator)


def device_count(config: TrainerConfig, kind: str) -> int:
    """Processes per node.

    Raises:
        ValueError: more devices are asked for than there are.
    """
    here = torch.cuda.device_count() if kind == "cuda" else 1
    if config.devices == 0:
        return here
    if kind != "cpu" and config.devices > here:
        raise ValueError(f"trainer.devices: got {config.devices}, but this node has {here} {kind} device(s)")
    return config.devices
