"""Ranks, sums over ranks, and random numbers that are functions of (seed, step, rank)."""

from __future__ import annotations

import hashlib
import os

import torch
import torch.distributed as td
from torch import Tensor

from vjepa_lab.batch import Rng, Rows


def rank() -> int:
    """Rank of this process, 0 when not distributed."""
    return td.get_rank() if td.is_available() and td.is_initialized() else 0


def world() -> int:
    """Number of processes, 1 when not distributed."""
    return td.get_world_size() if td.is_available() and td.is_initialized() else 1


def is_main_process() -> bool:
    """True in the process that writes files, also before the processes of a run have joined."""
    if td.is_available() and td.is_initialized():
        return td.get_rank() == 0
    return all(int(os.environ.get(name, 0)) == 0 for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of ``x`` over all ranks, in place and returned. A collective call: every rank makes it."""
    if world() > 1:
        td.all_reduce(x)
    return x


def gather_rows(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order: (B, ...) -> (world * B, ...). Every rank brings equally many."""
    if world() == 1:
        return x
    out = x.new_empty((world() * x.shape[0], *x.shape[1:]))
    td.all_gather_into_tensor(out, x.contiguous())
    return out


def derive(*parts: int | str) -> int:
    """A 63-bit seed from integers and words; equal on every machine and Python run."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng(seed: int, step: int, *, batch: int, device: torch.device | str = "cpu", purpose: str = "masks") -> Rng:
    """Random numbers of micro-batch ``step`` for ``batch`` samples on this rank.

    ``shared`` is keyed by (seed, step), ``local`` by (seed, step, global row): see ``batch.Rows``.
    """
    key = derive(seed, purpose, step)
    shared = torch.Generator().manual_seed(key)
    return Rng(shared, Rows(key, rank() * batch, batch, device))
