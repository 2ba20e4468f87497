"""Action supervision is off unless a weight is given, and its defaults are those of the paper where it says any."""

from vjepa_lab.config import PretrainConfig
from vjepa_lab.config_inverse import InverseConfig
from vjepa_lab.merge import fields_with_docs, load, to_plain


def test_it_is_off_unless_asked_for():
    assert load(PretrainConfig, []).inverse == InverseConfig()
    assert InverseConfig().weight is None


def test_fields_are_set_by_name_and_null_means_all():
    config = load(PretrainConfig, [], ["inverse.weight=0.05", "inverse.unfreeze_last=null", "inverse.budget=0.1"])
    assert (config.inverse.weight, config.inverse.unfreeze_last, config.inverse.budget) == (0.05, None, 0.1)
    assert to_plain(config)["inverse"]["unfreeze_last"] is None


def test_a_robot_takes_the_place_of_none():
    assert load(PretrainConfig, [], ["inverse.robot={name: libero}"]).inverse.robot == {"name": "libero"}


def test_every_field_says_what_it_means():
    docs = {name: doc for name, _, doc in fields_with_docs(InverseConfig)}
    assert all(docs.values())
    assert "0.05 in the paper" in docs["weight"]
