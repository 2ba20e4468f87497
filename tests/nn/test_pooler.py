"""Attentive pooling equals its formula; names, sizes, initialisation and refusals."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vjepa_lab.nn.pooler import AttentiveClassifier, AttentivePooler

TOKENS = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))


def loud(module: torch.nn.Module) -> torch.nn.Module:
    """Far from initialisation, so that attention is not uniform."""
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return module.eval()


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_the_last_block_is_queries_that_read_normed_tokens(eps):
    pooler = loud(AttentivePooler(width=24, heads=2, depth=2, queries=3, eps=eps))
    block, tokens = pooler.cross_attention_block, pooler.blocks[0](TOKENS)
    seen = F.layer_norm(tokens, (24,), block.norm1.weight, block.norm1.bias, eps)
    query = pooler.query_tokens.repeat(2, 1, 1)
    read = query + block.xattn(query, seen)
    normed = F.layer_norm(read, (24,), block.norm2.weight, block.norm2.bias, eps)
    expected = read + block.mlp.fc2(F.gelu(block.mlp.fc1(normed)))
    assert pooler(TOKENS).shape == (2, 3, 24)
    torch.testing.assert_close(pooler(TOKENS), expected, atol=1e-5, rtol=0)


def test_the_eps_reaches_every_norm():
    pooler = AttentivePooler(width=24, heads=2, depth=3, eps=0.5)
    norms = [m.eps for m in pooler.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert norms == [0.5] * 6


def test_the_order_of_tokens_does_not_matter():
    pooler = loud(AttentivePooler(width=24, heads=2, depth=3))
    torch.testing.assert_close(pooler(TOKENS[:, torch.randperm(5)]), pooler(TOKENS), atol=1e-4, rtol=0)


def test_one_number_of_classes_is_one_layer_on_one_query():
    classifier = loud(AttentiveClassifier(width=24, heads=2, depth=1, classes=7))
    expected = classifier.linear(classifier.pooler(TOKENS)[:, 0])
    torch.testing.assert_close(classifier(TOKENS), expected)
    assert not [name for name in classifier.state_dict() if name.startswith("pooler.blocks")]


def test_named_classes_have_a_query_and_a_layer_each():
    classifier = loud(AttentiveClassifier(width=24, heads=2, depth=2, classes={"verb": 3, "noun": 5, "action": 4}))
    assert classifier.pooler.query_tokens.shape == (1, 3, 24)
    scores, pooled = classifier(TOKENS), classifier.pooler(TOKENS)
    assert list(scores) == ["verb", "noun", "action"]
    for i, (name, score) in enumerate(scores.items()):
        torch.testing.assert_close(score, classifier.get_submodule(f"{name}_classifier")(pooled[:, i]))


def test_one_named_class_is_named_too():
    classifier = AttentiveClassifier(width=24, heads=2, depth=1, classes={"action": 4})
    assert classifier.pooler.query_tokens.shape == (1, 1, 24)
    assert classifier(TOKENS)["action"].shape == (2, 4)


@pytest.mark.parametrize(("width", "millions"), [(1024, 49.5), (1408, 93.5)])
def test_sizes_of_released_probes(width, millions):
    with torch.device("meta"):
        classifier = AttentiveClassifier(width=width, classes=174)
    attention, mlp, norms = 4 * width**2 + 4 * width, 8 * width**2 + 5 * width, 4 * width
    block = attention + mlp + norms
    cross = block - width**2 - width  # no output projection
    count = sum(p.numel() for p in classifier.parameters())
    assert count == 3 * block + cross + width + 174 * (width + 1)
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("depth", "scale"), [(4, 3), (2, 1), (1, 1)])
def test_initialisation_reaches_every_parameter_and_rescales_by_depth(depth, scale):
    with torch.device("meta"):
        classifier = AttentiveClassifier(width=128, heads=2, depth=depth, classes={"verb": 3, "noun": 5})
    classifier.to_empty(device="cpu")
    for p in classifier.parameters():
        torch.nn.init.constant_(p, float("nan"))
    torch.manual_seed(0)
    classifier.init_weights()
    assert not any(p.isnan().any() for p in classifier.parameters())
    pooler = classifier.pooler
    assert pooler.cross_attention_block.mlp.fc2.weight.std().item() == pytest.approx(
        0.02 / math.sqrt(2 * scale), rel=0.03
    )
    assert pooler.cross_attention_block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.03)
    for i, block in enumerate(pooler.blocks):
        assert block.mlp.fc2.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * (i + 1)), rel=0.03)
    assert pooler.query_tokens.std().item() == pytest.approx(0.02, rel=0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes: expected a positive number"),
        ({"classes": {}}, "classes: expected a positive number"),
        ({"classes": {"verb": 3, "noun": 0}}, "classes: expected a positive number"),
        ({"classes": {"a.b": 3}}, "numbers by identifier, got {'a.b': 3}"),
        ({"classes": 2, "depth": 0}, "got depth=0, queries=1"),
        ({"classes": 2, "heads": 5}, "width=24, heads=5"),
    ],
)
def test_wrong_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttentiveClassifier(**{"width": 24, "heads": 2, **arguments})
