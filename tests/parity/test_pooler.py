"""The attentive classifier gives what the released one gave, for recorded weights and for weights made by a rule."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.nn.pooler import AttentiveClassifier


def test_recorded_tokens(recorded):
    case = recorded("attentive_classifier")
    classifier = AttentiveClassifier(width=64, heads=2, classes=7).eval()
    classifier.load_state_dict(case["state_dict"], strict=True)
    torch.testing.assert_close(classifier(case["tokens"]), case["out"], atol=1e-5, rtol=0)


def test_parameters_are_in_the_released_order(recorded):
    names = list(recorded("attentive_classifier")["state_dict"])
    assert list(AttentiveClassifier(width=64, heads=2, classes=7).state_dict()) == names


def test_golden_sums(sine_weights, cosine_input):
    classifier = sine_weights(AttentiveClassifier(width=96, heads=16, classes=7)).requires_grad_(False)
    out = classifier(cosine_input(2, 20, 96))
    assert out.shape == (2, 7)
    assert out.sum().item() == pytest.approx(0.376056014, abs=1e-6)
    first = [-0.080241596, 0.180105479, -0.071233701, 0.002712955, 0.20282923]
    assert out[0, :5].tolist() == pytest.approx(first, abs=1e-6)
