"""A predictor that was trained on standardised numbers says the same when it is written for numbers as they are."""

import torch

from vjepa_lab.nn.ac_predictor import ACPredictor
from vjepa_lab.weights.standard import folded, unfolded


def test_a_folded_predictor_says_of_numbers_what_it_said_of_standardised_ones_and_back():
    torch.manual_seed(0)
    predictor = ACPredictor(encoder_width=12, width=24, depth=1, heads=2, action_dim=3, state_dim=4).eval()
    before = predictor.state_dict()
    means, stds = {"state": torch.randn(4), "action": torch.randn(3)}, {"state": torch.rand(4) + 0.1}
    stds["action"] = torch.rand(3) + 0.1
    tokens, states, actions = torch.randn(2, 3, 4, 12), torch.randn(2, 3, 4), torch.randn(2, 3, 3)
    standard = (actions - means["action"]) / stds["action"], (states - means["state"]) / stds["state"]
    with torch.no_grad():
        expected = predictor(tokens, *standard, (2, 2))
        assert not torch.allclose(predictor(tokens, actions, states, (2, 2)), expected, atol=1e-3)
        plain = folded({k: v.clone() for k, v in before.items()}, means, stds)
        predictor.load_state_dict(plain)
        torch.testing.assert_close(predictor(tokens, actions, states, (2, 2)), expected, rtol=1e-4, atol=1e-5)
        predictor.load_state_dict(unfolded(plain, means, stds))
        torch.testing.assert_close(predictor(tokens, *standard, (2, 2)), expected, rtol=1e-4, atol=1e-5)
