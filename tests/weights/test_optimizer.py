"""The moments of an optimizer are found under the names of their parameters, however a file numbers them."""

import pytest
import torch

from vjepa_lab.config import EncoderConfig, PredictorConfig, PretrainConfig
from vjepa_lab.jepa import build_jepa
from vjepa_lab.train.optim import param_groups
from vjepa_lab.weights import parts
from vjepa_lab.weights.optimizer import decayed, moments, released_state

CONFIG = PretrainConfig(
    encoder=EncoderConfig(size="tiny", width=12, depth=2, heads=1, patch=4, rope="released"),
    predictor=PredictorConfig(width=12, depth=1, heads=1, mask_tokens=3),
)


def trained():
    """Encoder, predictor and an optimizer with the groups of the released code, after three steps.

    As there, no gradient ever reaches the mask tokens after the first.
    """
    jepa = build_jepa(CONFIG)
    networks = [jepa.context, jepa.predictor]
    excluded = lambda name, p: "bias" in name or len(p.shape) == 1  # noqa: E731
    groups = [{"params": [p for n, p in net.named_parameters() if not excluded(n, p)]} for net in networks]
    groups += [
        {"params": [p for n, p in net.named_parameters() if excluded(n, p)], "WD_exclude": True, "weight_decay": 0}
        for net in networks
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.8, 0.9), eps=1e-7, weight_decay=0.05)
    idle = list(jepa.predictor.mask_tokens)[1:]
    for _ in range(3):
        for parameter in (p for net in networks for p in net.parameters()):
            parameter.grad = None if any(parameter is p for p in idle) else torch.randn_like(parameter)
        optimizer.step()
    return jepa, optimizer


@pytest.fixture
def released(tmp_path):
    """``released()`` -> parts of a file as the released code writes it; the model and optimizer that it holds."""
    jepa, optimizer = trained()

    def write(change=lambda checkpoint: None):
        roles = {"encoder": jepa.context, "target_encoder": jepa.target, "predictor": jepa.predictor}
        checkpoint = {
            role: {f"module.backbone.{name}": value for name, value in network.state_dict().items()}
            for role, network in roles.items()
        }
        checkpoint |= {"opt": optimizer.state_dict(), "epoch": 3}
        change(checkpoint)
        torch.save(checkpoint, tmp_path / "released.pt")
        return parts.read(tmp_path / "released.pt"), jepa, optimizer

    return write


def assert_moments(found, jepa, optimizer):
    for role, network in (("encoder", jepa.context), ("predictor", jepa.predictor)):
        expected = {name: optimizer.state[p] for name, p in network.named_parameters() if p in optimizer.state}
        assert found[role].keys() == expected.keys()
        for name, state in expected.items():
            assert all(torch.equal(found[role][name][field], state[field]) for field in state), name


def test_released_numbers_are_turned_into_names(released):
    read, jepa, optimizer = released()
    found = moments(read)
    assert_moments(found, jepa, optimizer)
    assert found.keys() == {"encoder", "predictor"}
    assert "mask_tokens.0" in found["predictor"]
    assert "mask_tokens.1" not in found["predictor"], "it never had a gradient"


def test_the_numbers_of_a_run_are_turned_into_names(released):
    """There a parameter's number is its place among all of the run's, target encoder included."""
    read, jepa, optimizer = released()
    places = {p: i for i, p in enumerate(jepa.parameters())}
    state = {places[p]: state for p, state in optimizer.state.items()}
    networks = {
        role: dict(network.state_dict())
        for role, network in (("encoder", jepa.context), ("target_encoder", jepa.target), ("predictor", jepa.predictor))
    }
    run = parts.Parts(path=read.path, dialect="run", networks=networks, optimizer={"state": state, "param_groups": []})
    assert_moments(moments(run), jepa, optimizer)


def test_names_are_turned_into_released_numbers_again(released):
    read, _, optimizer = released()
    expected = optimizer.state_dict()
    written = released_state(moments(read), read.networks, expected["param_groups"])
    assert written["state"].keys() == expected["state"].keys()
    for number, state in expected["state"].items():
        assert all(torch.equal(written["state"][number][field], state[field]) for field in state)
    for got, group in zip(written["param_groups"], expected["param_groups"], strict=True):
        assert got == {name: group[name] for name in got}
        assert {"lr", "betas", "eps", "weight_decay", "params"} <= got.keys()
        assert ("WD_exclude" in got) == ("WD_exclude" in group)


def test_the_parameters_with_decay_are_those_of_training():
    jepa = build_jepa(CONFIG)
    with_decay, without = param_groups(jepa.named_parameters(), weight_decay=0.1)
    for name, parameter in jepa.named_parameters():
        if parameter.requires_grad:
            group = with_decay if decayed(name, parameter) else without
            assert any(parameter is p for p in group["params"]), name


def transpose_a_moment(checkpoint):
    state = checkpoint["opt"]["state"][1]
    state["exp_avg"] = state["exp_avg"].T.contiguous()


def forget_a_group(checkpoint):
    checkpoint["opt"]["param_groups"].pop()


def other_optimizer(checkpoint):
    checkpoint["opt"]["state"][0] = {"momentum_buffer": torch.zeros(12, 3, 2, 4, 4)}


def stray_number(checkpoint):
    checkpoint["opt"]["state"][999] = checkpoint["opt"]["state"][0]


def no_predictor(checkpoint):
    del checkpoint["predictor"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (transpose_a_moment, ["encoder blocks.0.attn.qkv.weight is (36, 12)", "a moment of it (12, 36)"]),
        (forget_a_group, ["does not fit its weights", "groups of [9, 9, 19]", "expected [9, 9, 19, 12]"]),
        (other_optimizer, ["not a state of AdamW", "patch_embed.proj.weight has momentum_buffer"]),
        (stray_number, ["a state for parameter 999, of which there is none"]),
        (no_predictor, ["cannot be read without the predictor"]),
    ],
)
def test_a_state_that_does_not_fit_is_an_error(released, change, words):
    read, _, _ = released(change)
    with pytest.raises(ValueError) as caught:
        moments(read)
    assert all(word in str(caught.value) for word in [*words, "released.pt"])
