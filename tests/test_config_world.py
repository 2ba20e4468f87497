"""The configuration of a world model: defaults of the paper, every field documented."""

from __future__ import annotations

from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.merge import fields_with_docs, from_plain, load, to_plain


def test_defaults_are_those_of_the_paper():
    config = PosttrainConfig()
    optim = config.optim
    assert (optim.steps, optim.warmup, optim.decay) == (94_500, 4_500, 4_500)
    assert (optim.start_lr, optim.lr, optim.min_lr, optim.weight_decay) == (7.5e-5, 4.25e-4, 0.0, 0.04)
    assert (config.predictor.width, config.predictor.depth, config.predictor.heads) == (1024, 24, 16)


def test_fields_are_documented_unless_their_name_says_it_all():
    obvious = {"predictor.width", "predictor.depth", "predictor.heads", "optim.weight_decay", "optim.betas"}
    obvious |= {"optim.eps", "trainer.nodes"}
    assert not [name for name, _, doc in fields_with_docs(PosttrainConfig) if not doc and name not in obvious]


def test_a_configuration_survives_a_checkpoint():
    config = load(PosttrainConfig, [], ["world.robot={name: planar, position: [x, y]}", "crop=64"])
    assert from_plain(PosttrainConfig, to_plain(config)) == config
