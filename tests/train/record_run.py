"""Run ``vjepa-lab pretrain`` and write keys, masks and loss of every micro-batch, one JSON line each per rank.

``python record_run.py OUT.jsonl [file.yaml ...] [key=value ...]``; rank r writes OUT.jsonl.r.
"""

import hashlib
import json
import sys

import torch

torch.set_num_threads(1)


def digest(tensors):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()[:16]


def main():
    from vjepa_lab import cli, dist, masks
    from vjepa_lab.train.modules import PretrainModule

    out = sys.argv[1]
    plain_step, plain_sample = PretrainModule.training_step, masks.sample
    drawn = []

    def sample(*args, **kwargs):
        pairs = plain_sample(*args, **kwargs)
        drawn[:] = [ids for pair in pairs for ids in pair]
        return pairs

    def training_step(self, batch, batch_idx):
        loss = plain_step(self, batch, batch_idx)
        row = {
            "batch": batch_idx,
            "keys": batch.key,
            "clip": digest([batch.clip]),
            "masks": digest(drawn),
            "loss": loss.item().hex(),
        }
        with open(f"{out}.{dist.rank()}", "a") as file:
            file.write(json.dumps(row) + "\n")
        return loss

    masks.sample = sample
    PretrainModule.training_step = training_step
    sys.exit(cli.main(["pretrain", *sys.argv[2:]]))


if __name__ == "__main__":
    main()
