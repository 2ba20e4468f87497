"""What every probe promises: finite numbers, and an encoder, a mode and a random state that are as they were."""

import pytest
import torch

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.loader import evaluation
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.registry import PROBES, SOURCES


@pytest.mark.parametrize("name", PROBES.names())
def test_a_probe_measures_and_changes_nothing(name):
    fields = dict.fromkeys(("fit_clips", "select_clips", "test_clips"), 16)
    probe = PROBES.build({"name": name, "batch": 8, **fields})
    torch.manual_seed(0)
    encoder = Encoder(width=24, depth=1, heads=2, patch=8).eval()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    state = torch.get_rng_state()
    spec = ClipSpec(frames=4, height=16, width=16, fps=4.0, stride=None, random=False)
    readers = {s: (SOURCES.build(e).open(spec), first, n) for s, (e, first, n) in probe.demands().items()}
    streams = {
        s: (b._replace(clip=b.clip / 255.0) for b in evaluation(r, first=first, count=n, batch=probe.batch))
        for s, (r, first, n) in readers.items()
    }
    with torch.no_grad():
        scores = dict(probe.run(encoder, streams))
    assert scores
    assert all(torch.isfinite(torch.tensor(v)) for v in scores.values())
    assert not encoder.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert probe.every > 0
