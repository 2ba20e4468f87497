"""The page of an ablation holds every figure, escapes names, and shows no picture that is not inside it."""

import math

from vjepa_lab.report.ablation import Ablation, Compared, Cost, Landing, ablation_page
from vjepa_lab.report.page import Value


def made(name="topk"):
    return Ablation(
        sentences=["Of 1 comparisons 1 have <an interval>."],
        values={
            "random": {"motion/velocity": Value(0.31, 0.29, 0.33)},
            name: {"motion/velocity": Value(0.25, 0.2, 0.3)},
        },
        references={"untrained": {"motion/velocity": Value(0.11)}},
        baseline="random",
        compared=[Compared("motion/velocity", name, "random", Value(-0.06, -0.09, -0.03), 0.0123, 0.0246)],
        per_seed={"motion/velocity": {"random": {0: 0.3, 7: 0.32}, name: {0: 0.24, 7: 0.26}}},
        losses={"random": [(1.0, 0.9), (2.0, 0.5)], name: [(1.0, 0.8), (2.0, 0.4)]},
        costs={
            "random": Cost(307.0, 205.0, 1.5e9, Value(0.25, 0.24, 0.26), 0.222, 0.013),
            name: Cost(308.0, 204.0, 1.5e9, Value(0.3, 0.2, 0.4), math.nan, math.nan),
        },
        landings={arm: [Landing(2, 307.0, 205.0, [0.6, 0.4], [0.4, 0.6])] for arm in ("random", name)},
        equal=[("flops", "within 2 %")],
    )


def test_every_figure_is_on_the_page():
    text = ablation_page(made(), title="Ablation of masks", facts={"seeds": "0, 7"})
    for part in (
        "0.310",
        "[0.290, 0.330]",
        "−0.060",
        "0.012",
        "222",
        "0.025",
        "untrained (control)",
        "0.110",
        "1.3%",
        "250",
        "307",
    ):
        assert part in text
    assert text.count("<svg viewBox") == 4  # a metric, context and target of a batch size, the loss
    assert "<b>−0.060</b>" in text


def test_what_comes_from_outside_is_escaped():
    text = ablation_page(made("<script>"), title="<b>", facts={})
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "&lt;an interval&gt;" in text


def test_a_page_without_pairs_or_losses_is_made():
    found = made()._replace(compared=[], losses={}, references={})
    assert "nothing to draw" in ablation_page(found, title="x", facts={})
