"""Files and arguments merge in order; mistakes are told together, with the nearest name."""

import pytest

from vjepa_lab import config as configs
from vjepa_lab.config import ConfigError, PretrainConfig, levels_of
from vjepa_lab.merge import fields_with_docs, load, to_plain, to_yaml
from vjepa_lab.validate import validate


def write(tmp_path, text, name="run.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_defaults_then_files_left_to_right_then_arguments(tmp_path):
    one = write(tmp_path, "optim: {lr: 1e-4, steps: 50}\nrun: {seed: 3}", "one.yaml")
    two = write(tmp_path, "optim: {steps: 60}", "two.yaml")
    config = load(PretrainConfig, [one, two], ["run.seed=4"])
    assert (config.optim.lr, config.optim.steps, config.run.seed) == (1e-4, 60, 4)
    assert config.optim.warmup == PretrainConfig().optim.warmup


def test_lists_replace_and_their_entries_can_be_set(tmp_path):
    file = write(tmp_path, "masks:\n  - {name: tube, ratio: 0.5}\n")
    assert load(PretrainConfig, [file]).masks == [{"name": "tube", "ratio": 0.5}]
    assert load(PretrainConfig, [file], ["masks.0.ratio=0.9"]).masks[0]["ratio"] == 0.9
    assert load(PretrainConfig, [], ["masks=[{name: random}]"]).masks == [{"name": "random"}]


def test_a_file_of_comments_changes_nothing(tmp_path):
    assert load(PretrainConfig, [write(tmp_path, "# nothing\n")]) == PretrainConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim: {stpes: 3}", ["optim.stpes", "did you mean 'optim.steps'"]),
        ("otpim: {steps: 3}", ["otpim", "did you mean 'optim'"]),
        ("optim: {steps: many}", ["optim.steps", "many"]),
        ("- a\n- b", ["mapping"]),
        ("a: [1", ["YAML"]),
    ],
)
def test_a_wrong_file_is_named_with_the_field(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        load(PretrainConfig, [write(tmp_path, text)])
    assert all(word in str(caught.value) for word in ["run.yaml", *words])


def test_all_unknown_keys_of_a_file_are_told_at_once(tmp_path):
    file = write(tmp_path, "optim: {stpes: 3}\nencoder: {crpo: 3}\nzzz: 1")
    with pytest.raises(ConfigError) as caught:
        load(PretrainConfig, [file])
    assert all(word in str(caught.value) for word in ("optim.stpes", "encoder.crpo", "zzz"))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("optim.stpes=3", ["optim.stpes", "did you mean 'optim.steps'"]),
        ("optim.lr=high", ["optim.lr", "high"]),
        ("nonsense", ["key=value"]),
        ("masks.7.ratio=1", ["masks.7.ratio"]),
    ],
)
def test_a_wrong_argument_is_named(argument, words):
    with pytest.raises(ConfigError) as caught:
        load(PretrainConfig, [], [argument])
    assert all(word in str(caught.value) for word in words)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such config file"):
        load(PretrainConfig, [tmp_path / "nowhere.yaml"])


def test_problems_of_meaning_are_told_together():
    config = load(
        PretrainConfig,
        [],
        [
            "encoder.crop=250",
            "ema.start=2",
            "trainer.strategy=fsdp",
            "trainer.precision=fp16",
            "masks.0.name=tub",
            "optim.steps=10",
            "optim.warmup=11",
            "data.stride=2",
            "init.load=weights+optimizer",
            "encoder.size=huuge",
            "probes=[{name: motion}, {name: motion}]",
            "encoder.drop_path=1",
        ],
    )
    with pytest.raises(ConfigError) as caught:
        validate(config)
    text = str(caught.value)
    for words in (
        ["11 problems"],
        ["encoder.crop", "250", "240 or 256"],
        ["ema.start", "2.0"],
        ["trainer.strategy", "fsdp2"],
        ["trainer.precision", "bf16-mixed"],
        ["masks[0]", "did you mean 'tube'"],
        ["optim", "warmup 11"],
        ["data", "fps", "stride"],
        ["init.load", "init.checkpoint"],
        ["encoder.size", "huuge"],
        ["probes", "'motion' is listed twice"],
        ["encoder.drop_path", "1.0"],
    ):
        assert all(word in text for word in words), words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["encoder.family=vjepa3"], ["encoder.family", "vjepa2.1"]),
        (["predictor.levels=4"], ["predictor.levels", "encoder.family=vjepa2.1"]),
        (["predictor.out_width=1664"], ["predictor.out_width", "teacher"]),
        (["images.sources=[{name: synthetic}]"], ["images.sources", "data.sources"]),
        (["encoder.family=vjepa2.1", "encoder.depth=3"], ["four levels", "depth 3"]),
        (["encoder.family=vjepa2.1", "predictor.levels=2"], ["predictor.levels", "1 or 4"]),
        (["encoder.family=vjepa2.1", "loss.context_end=3"], ["loss.context_end", "context_start"]),
        (["encoder.family=vjepa2.1", "images.sources=[{name: synthetc}]"], ["images.sources[0]", "'synthetic'"]),
        (
            ["encoder.family=vjepa2.1", "images.sources=[{name: synthetic}]", "images.crop=100", "images.weight=1"],
            ["images.crop: 100", "images.weight: got 1"],
        ),
    ],
)
def test_what_belongs_to_one_family_is_refused_in_the_other(arguments, words):
    with pytest.raises(ConfigError) as caught:
        validate(load(PretrainConfig, [], arguments))
    assert all(word in str(caught.value) for word in words)


def test_levels_are_the_released_ones():
    assert levels_of(12) == [2, 5, 8, 11]
    assert levels_of(24) == [5, 11, 17, 23]
    assert levels_of(40) == [9, 19, 29, 39]
    assert levels_of(48) == [11, 23, 37, 47]


def test_sizes_below_one_are_named():
    config = load(PretrainConfig, [], ["predictor.heads=0", "encoder.depth=-1"])
    with pytest.raises(ConfigError, match=r"encoder\.depth: got -1[\s\S]*predictor\.heads: got 0"):
        validate(config)


def test_limits_of_the_watch_are_shares():
    config = load(PretrainConfig, [], ["watch={on_collapse: panic, spread: 1.5, patience: 0, lr_factor: 0}"])
    with pytest.raises(ConfigError) as caught:
        validate(config)
    for words in ("4 problems", "watch.on_collapse: got 'panic', expected one of warn, stop, rollback"):
        assert words in str(caught.value)
    for words in ("watch.spread: got 1.5", "watch.patience: got 0", "watch.lr_factor: got 0"):
        assert words in str(caught.value)


def test_the_defaults_have_no_problem():
    validate(PretrainConfig())


def test_the_global_batch_must_add_up():
    config = load(PretrainConfig, [], ["data.global_batch=100", "trainer.devices=2", "trainer.accumulate=2"])
    with pytest.raises(ConfigError, match=r"24 x devices 2 x nodes 1 x accumulate 2 = 96"):
        validate(config)


@pytest.mark.parametrize(
    ("variables", "who"),
    [
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4"}, "torchrun"),
        ({"SLURM_NTASKS": "4"}, "SLURM"),
        ({"SLURM_NTASKS": "2", "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4"}, "torchrun"),  # one torchrun per node
    ],
)
def test_a_launcher_that_started_another_number_of_processes_is_refused(monkeypatch, variables, who):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    validate(load(PretrainConfig, [], ["trainer.devices=2", "trainer.nodes=2"]))
    with pytest.raises(ConfigError, match=f"{who} started 4 processes"):
        validate(load(PretrainConfig, [], ["trainer.devices=2"]))


def test_a_resolved_configuration_reads_back_as_itself(tmp_path):
    config = load(PretrainConfig, [], ["optim.lr=3e-4", "masks=[{name: tube, ratio: 0.5}]"])
    assert load(PretrainConfig, [write(tmp_path, to_yaml(config))]) == config
    assert to_plain(config)["masks"] == [{"name": "tube", "ratio": 0.5}]


def test_fields_with_units_or_choices_are_documented():
    docs = {name: doc for name, _, doc in fields_with_docs(PretrainConfig)}
    obvious = {"predictor.width", "predictor.depth", "predictor.heads", "optim.weight_decay", "optim.betas"}
    obvious |= {"optim.eps", "trainer.nodes", "plugins"}
    assert not [name for name, doc in docs.items() if not doc and name not in obvious]
    assert len(docs) == 100


def test_overrides_of_a_size_change_its_row():
    row = load(PretrainConfig, [], ["encoder.size=tiny", "encoder.width=96", "encoder.depth=6"]).encoder.resolved()
    assert row == (96, 6, 3, 384)
    assert configs.SIZES["giant"].heads == 22
