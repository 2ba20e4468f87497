"""What the verb ``masks`` is asked to draw."""

from vjepa_lab.config_masks import MasksConfig
from vjepa_lab.merge import load


def test_names_with_commas_and_entries_of_a_training_are_one_list():
    config = load(MasksConfig, [], ["strategy=motion, tube", "masks=[{name: random, ratio: 0.5}]"])
    assert config.entries() == [{"name": "motion"}, {"name": "tube"}, {"name": "random", "ratio": 0.5}]


def test_options_are_fields_of_the_strategy():
    config = load(MasksConfig, [], ["strategy=interaction_blocks", "options.budget=0.3", "options.mix={end: 5}"])
    assert config.entries() == [{"name": "interaction_blocks", "budget": 0.3, "mix": {"end": 5}}]
