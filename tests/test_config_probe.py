"""The probe verb's fields: defaults measure something, and words are the checkpoint."""

from vjepa_lab.config_probe import ProbeConfig
from vjepa_lab.merge import fields_with_docs, load


def test_the_defaults_measure_with_every_control():
    config = load(ProbeConfig, [], ["checkpoint=a.ckpt"])
    assert config.probes == [{"name": "motion"}]
    assert config.controls == ["untrained", "pixels", "constant", "shuffled"]


def test_every_field_is_explained():
    assert not [key for key, _, doc in fields_with_docs(ProbeConfig) if not doc]
