"""Twelve training steps from recorded weights give the recorded losses and final weights."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import MaskPair
from vjepa_lab.jepa import JEPA
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor


def test_twelve_steps_follow_the_recorded_run(recorded):
    case = recorded("pretrain_trajectory")
    context = Encoder(width=64, depth=2, heads=2, rope="released")
    context.load_state_dict(case["encoder_init"], strict=True)
    predictor = Predictor(encoder_width=64, width=48, depth=2, heads=2, mask_tokens=2, rope="released")
    predictor.load_state_dict(case["predictor_init"], strict=True)
    model = JEPA(context=context, predictor=predictor).train()

    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in trained if p.ndim == 1 or "bias" in n]
    decayed = [p for n, p in trained if not (p.ndim == 1 or "bias" in n)]
    groups = [{"params": decayed, "weight_decay": case["weight_decay"]}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=tuple(case["betas"]), eps=case["eps"])

    losses = []
    for lr, video, (contexts, targets) in zip(case["lrs"], case["video_order"], case["masks"], strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        pairs = [MaskPair(c, t) for c, t in zip(contexts, targets, strict=True)]
        loss = model(case["videos"][video], pairs)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.update_target(case["ema"])
        losses.append(loss.item())

    assert losses == pytest.approx(case["losses"], abs=1e-5)
    for name in ("context", "target"):
        ours = dict(getattr(model, name).named_parameters())
        assert case[f"final_{name}"]
        for key, expected in case[f"final_{name}"].items():
            torch.testing.assert_close(ours[key.removeprefix("backbone.")].detach(), expected, atol=1e-5, rtol=0)
