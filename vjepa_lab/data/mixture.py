"""Which sample is number n of an endless stream: pure functions of (seed, n), for any number of ranks and workers.

The stream is a sequence of slots. A slot belongs to one source (weights are kept exactly over every block of 4,096
slots), and the k-th slot of a source is the k-th sample of that source's endless order: one shuffled pass after
another. Rank r of w with batch B takes slots ``b*w*B + r*B ... + B-1`` for its batch b, so no two ranks draw the same
slot, a run resumes from one integer, and the stream does not change with the number of ranks or workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vjepa_lab.dist import derive

BLOCK = 4096


def permute(position: int, size: int, key: int) -> int:
    """Element ``position`` of a pseudo-random permutation of ``range(size)``, in constant memory.

    A four-round Feistel network over the next even number of bits, walked until it lands inside the range.
    """
    if size <= 1:
        return 0
    half = max(((size - 1).bit_length() + 1) // 2, 1)
    mask = (1 << half) - 1
    x = position
    while True:
        left, right = x >> half, x & mask
        for round_ in range(4):
            mixed = (right + 1) * 0x9E3779B97F4A7C15 + key + round_ * 0xBF58476D1CE4E5B9
            mixed = ((mixed ^ (mixed >> 29)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ ((mixed >> 32) & mask)
        x = (left << half) | right
        if x < size:
            return x


class Mixture:
    """Slot number -> (source, how many slots that source had before)."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        """Raises ValueError if a source's share is so small that a block may hold none of it."""
        shares = np.asarray(weights, dtype=np.float64)
        shares = shares / shares.sum()
        if shares.min() * BLOCK < 1:
            raise ValueError(
                f"data.sources: the smallest weight is {shares.min():.2e} of the sum, expected at least {1 / BLOCK:.1e}"
            )
        self._edges = np.concatenate([[0.0], np.cumsum(shares)])
        self._edges[-1] = 1.0
        self._seed = seed
        self._block = -1
        self._source = np.empty(0, dtype=np.int64)
        self._count = np.empty(0, dtype=np.int64)

    def locate(self, slot: int) -> tuple[int, int]:
        """The source of a slot, and the number of earlier slots of that source."""
        block, within = divmod(slot, BLOCK)
        if block != self._block:
            self._fill(block)
        return int(self._source[within]), int(self._count[within])

    def _before(self, block: int) -> np.ndarray:
        """Slots of each source before a block; they sum to ``block * BLOCK`` exactly."""
        return np.diff(np.floor(self._edges * (block * BLOCK) + 0.5).astype(np.int64))

    def _fill(self, block: int) -> None:
        before, after = self._before(block), self._before(block + 1)
        source = np.repeat(np.arange(len(before)), after - before)
        np.random.Generator(np.random.Philox(key=derive(self._seed, "mixture", block))).shuffle(source)
        count = np.empty(BLOCK, dtype=np.int64)
        for s, start in enumerate(before):
            at = source == s
            count[at] = start + np.arange(at.sum())
        self._block, self._source, self._count = block, source, count
