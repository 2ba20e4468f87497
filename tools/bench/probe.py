"""Time a sweep of 20 heads beside one head, on the same features, and a probe whose features are kept.

    python tools/bench/probe.py --depth 4
    python tools/bench/probe.py --depth 4 --encoder small

All variants take turns in one process; what counts is the ratio within each round. Time is that of the processor, so
that what else runs on the machine counts for little; with several threads it is the sum over them.

- one: ``_sweep`` with one head.
- plain: one head as its module says, with torch's AdamW: what one head costs without stacked weights.
- grid: ``_sweep`` with 20 heads, five learning rates times four weight decays.
- race: the same, raced: all heads at first, then the best (``_sweep.RACE``). Judging them is part of the time.

Without ``--encoder`` the features lie in memory; with it, each epoch encodes its clips, as ``features: stream`` does.
``--kept`` times the probe ``classify`` on clips of the simulated world instead, twice into one folder: the second time
other heads read features that are there.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from step import machine
from torch import Tensor

from vjepa_lab.config import SIZES
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._heads import Bank, Head
from vjepa_lab.probes._sweep import Feed, Memory, Plan, Rows, Swept, sweep, within
from vjepa_lab.probes.classify import Classify


class Encoding:
    """A feed that encodes its clips in every epoch."""

    sharded = False

    def __init__(self, encoder: FrozenEncoder, clips: Tensor, labels: Tensor, batch: int) -> None:
        self.encoder, self.clips, self.labels, self.batch = encoder, clips, labels, batch

    def __len__(self) -> int:
        return -(-len(self.clips) // self.batch)

    def epoch(self, number: int) -> Iterator[Rows]:
        del number
        for clip, label in zip(self.clips.split(self.batch), self.labels.split(self.batch), strict=True):
            tokens = self.encoder.tokens(clip).tokens
            yield Rows(tokens, {"label": label}, torch.ones(len(label), dtype=torch.bool))


def plain(head: Head, feed: Feed, epochs: int) -> None:
    """One head as anyone would train it."""
    module, total, step = head.module(), epochs * len(feed), 0
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    for epoch in range(epochs):
        for rows in feed.epoch(epoch):
            optimizer.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / total))
            optimizer.zero_grad()
            F.cross_entropy(module(rows.x), rows.y["label"]).backward()
            optimizer.step()
            step += 1


def variants(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """What is timed."""
    generator = torch.Generator().manual_seed(0)
    clips = args.batch * args.batches
    labels = torch.randint(args.classes, (clips + args.batch,), generator=generator)
    width, tokens = args.width, args.tokens
    train: Feed
    if args.encoder:
        size = SIZES[args.encoder]
        network = Encoder(width=size.width, depth=size.depth, heads=size.heads, patch=16)
        encoder = FrozenEncoder(encoder=network, frames=args.frames, crop=args.crop)
        shape = (clips + args.batch, 3, args.frames, args.crop, args.crop)
        films = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        train = Encoding(encoder, films[:clips], labels[:clips], args.batch)
        select: Feed = Encoding(encoder, films[clips:], labels[clips:], args.batch)
        width, tokens = size.width, args.frames // 2 * (args.crop // 16) ** 2
    else:
        x = torch.randn(clips + args.batch, tokens, width, generator=generator)
        train = Memory(x[:clips], {"label": labels[:clips]}, batch=args.batch, shuffle=0)
        select = Memory(x[clips:], {"label": labels[clips:]}, batch=args.batch)
    head = Head("attentive", width, {"label": args.classes}, depth=args.depth, heads=args.heads)
    grid, one = Plan(seeds=1, epochs=args.epochs), Plan(lrs=(1e-3,), wds=(0.1,), seeds=1, epochs=args.epochs)

    def measure(bank: Bank, rows: Rows) -> dict[str, Tensor]:
        return {"right": within(bank.scores(rows.x)["label"], rows.y["label"], 1).T}

    def judge(swept: Swept) -> tuple[Tensor, Tensor]:
        right = swept.measure(select, measure)["right"].mean(0)
        return right, torch.zeros(len(right))

    where = f"encoded in each ({args.encoder})" if args.encoder else "features in memory"
    print(
        f"head: {args.depth} blocks, {args.heads} attention heads, width {width}, {args.classes} classes; "
        f"{clips} clips of {tokens} tokens in batches of {args.batch}, {args.epochs} epochs; {where}"
    )
    found: dict[str, Callable[[], object]] = {
        "one": lambda: sweep(head, one, train),
        "plain": lambda: plain(head, train, args.epochs),
        "grid": lambda: sweep(head, grid, train),
        "race": lambda: sweep(head, grid, train, race=judge),
    }
    return {name: found[name] for name in args.variants.split(",")}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Time the variants in turns."""
    runs = variants(args)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(args.rounds + args.warmup):
        for name in list(runs) if i % 2 == 0 else list(runs)[::-1]:
            start = time.process_time()
            runs[name]()
            if i >= args.warmup:
                times[name].append(time.process_time() - start)
    result = {"seconds": {name: statistics.median(taken) for name, taken in times.items()}}
    print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in result["seconds"].items()))
    for name in runs:
        for base in {"one", "plain"} & {*runs} - {name}:
            ratios = [a / b for a, b in zip(times[name], times[base], strict=True)]
            spread = (min(ratios), statistics.median(ratios), max(ratios))
            result[f"{name}/{base}"] = spread
            print(f"{name} / {base}: {' '.join(f'{x:.2f}' for x in spread)} (min median max of rounds)")
    return result


def kept(args: argparse.Namespace) -> dict[str, Any]:
    """Time the probe on fresh and on kept features, and count the clips that are encoded."""
    size = SIZES[args.encoder or "tiny"]
    network = Encoder(width=size.width, depth=size.depth, heads=size.heads, patch=8)
    encoder = FrozenEncoder(encoder=network, frames=args.frames, crop=args.crop)
    encoded, plain_encode = [0], encoder._encode

    def counted(clip: Tensor, taps: Any = ()) -> Any:
        encoded[0] += len(clip)
        return plain_encode(clip, taps)

    encoder._encode = counted  # type: ignore[method-assign]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn, lr in (("fresh", 1e-3), ("other heads", 3e-3)):
            heads = {
                "head": "attentive",
                "depth": 1,
                "heads": args.heads,
                "lrs": [lr],
                "wds": [0.1],
                "epochs": args.epochs,
            }
            probe = Classify(**heads, fit_clips=args.batch * args.batches, test_clips=args.batch)  # type: ignore[arg-type]
            look = Look(frames=args.frames, crop=args.crop)
            streams = {split: Stream(demand, look, batch=probe.batch) for split, demand in probe.demands().items()}
            for stream in streams.values():
                stream.cache = folder
            encoded[0], start = 0, time.process_time()
            dict(probe.run(encoder, streams))
            found[turn] = {"seconds": time.process_time() - start, "clips": encoded[0]}
    for turn, said in found.items():
        print(f"{turn}: {said['seconds']:.2f} s, {said['clips']} clips encoded")
    return found


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure what ``argv`` asks for, print it, and give it back as numbers."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    where, load = machine(torch.device("cpu")), os.getloadavg()[0]
    print(f"torch {torch.__version__}, {where}, threads {args.threads}, load {load:.1f}")
    return kept(args) if args.kept else compare(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time a sweep of 20 heads beside one head, on the same features.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--depth", type=int, default=4, help="blocks of a head")
    parser.add_argument("--heads", type=int, default=16, help="attention heads")
    parser.add_argument("--width", type=int, default=192, help="of features in memory")
    parser.add_argument("--tokens", type=int, default=256, help="per clip, of features in memory")
    parser.add_argument("--classes", type=int, default=48, help="of the labels")
    parser.add_argument("--batch", type=int, default=16, help="clips per step")
    parser.add_argument("--batches", type=int, default=2, help="per epoch")
    parser.add_argument("--epochs", type=int, default=20, help="of each training")
    parser.add_argument("--encoder", choices=list(SIZES), help="encode the clips in every epoch, with this size")
    parser.add_argument("--frames", type=int, default=16, help="of clips that are encoded")
    parser.add_argument("--crop", type=int, default=96, help="of clips that are encoded")
    parser.add_argument("--variants", default="one,plain,grid,race", help="which of these, in this order")
    parser.add_argument("--kept", action="store_true", help="time kept features instead")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each")
    parser.add_argument("--warmup", type=int, default=1, help="turns before that")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    return parser


if __name__ == "__main__":
    main()
