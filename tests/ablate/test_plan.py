"""A plan refuses arms that are measured to be unequal, and is measured once."""

import pytest

from vjepa_lab.ablate import measure, plan
from vjepa_lab.config import ConfigError

RATIO = {"random": {"masks": [{"name": "random", "ratio": 0.5}]}, "more": {"masks": [{"name": "random", "ratio": 0.7}]}}


def test_equal_arms_make_a_plan_with_a_row_each(tiny):
    config = tiny(batches=[2])
    made = plan.make(config)
    assert plan.unequal(config, made) == []
    text = plan.in_words(config, made)
    assert "4 runs: 2 arms x seeds 0, 1" in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("random (base", "tube"))][:2]
    assert "ids (context, target) at a batch of" in text


def test_another_ratio_is_refused_with_both_values_unless_declared(tiny):
    with pytest.raises(ConfigError) as caught:
        plan.make(tiny(arms=RATIO))
    text = str(caught.value)
    for name in ("context_ids", "target_ids", "flops"):
        assert f"arms.more: {name} (" in text
        assert f"declare arms.more.differs: [{name}]" in text
    assert "is 6 (+50.0%, tolerance 2.0%), in the baseline random 4:" in text
    declared = {**RATIO, "more": {**RATIO["more"], "differs": ["context_ids", "target_ids", "flops"]}}
    config = tiny(arms=declared)
    assert "more differs also in context_ids, target_ids, flops" in plan.in_words(config, plan.make(config))


def test_the_tolerance_is_what_decides(tiny):
    with pytest.raises(ConfigError, match="tolerance 49"):
        plan.make(tiny(arms=RATIO, tolerance=0.499))
    plan.make(tiny(arms=RATIO, tolerance=0.501))


def test_other_weights_or_other_clips_are_refused_though_the_fields_are_declared(tiny):
    arms = {
        "random": RATIO["random"],
        "deep": {"predictor": {"depth": 2}, "differs": ["predictor", "flops"]},
        "fast": {"data": {"sources": [{"name": "synthetic", "speed": 0.5}]}, "differs": ["data"]},
    }
    with pytest.raises(ConfigError) as caught:
        plan.make(tiny(arms={name: {**RATIO["random"], **arm} for name, arm in arms.items()}))
    text = str(caught.value)
    assert "arms.deep: initial_weights (hash of the weights before the first step) is " in text
    assert "arms.fast: data_order (hash of the first batches) is " in text
    assert "arms.deep: data_order" not in text
    assert "arms.fast: initial_weights" not in text


def test_a_plan_is_read_again_while_the_configuration_stays(tiny, monkeypatch):
    made = plan.make(tiny())
    with monkeypatch.context() as patched:
        patched.setattr(measure, "shape", None)  # to call it is an error
        again = plan.make(tiny())
    assert again.origins == made.origins
    assert [s[:4] for s in again.shapes.values()] == [s[:4] for s in made.shapes.values()]
    monkeypatch.setattr(measure, "shape", None)
    with pytest.raises(TypeError):
        plan.make(tiny(changes={"optim": {"steps": 3, "warmup": 0}}))


@pytest.mark.parametrize(("seconds", "text"), [(5.2, "5 s"), (300, "5 min"), (9000, "2.5 h"), (float("nan"), "")])
def test_a_duration_is_in_words(seconds, text):
    assert plan.duration(seconds) == text
