"""Every YAML that is shipped loads, has a header that says what it costs, and trains when made small."""

import shlex
from pathlib import Path

import pytest

from vjepa_lab import cli
from vjepa_lab.ablate import plan
from vjepa_lab.config import ConfigError, PretrainConfig
from vjepa_lab.config_ablate import AblateConfig
from vjepa_lab.config_probe import ProbeConfig
from vjepa_lab.config_world import PlanConfig, PosttrainConfig
from vjepa_lab.merge import load
from vjepa_lab.train.folder import read_metrics
from vjepa_lab.train.run import pretrain
from vjepa_lab.validate import validate

ROOT = Path(__file__).parents[2]
WORLDS = sorted((ROOT / "configs/posttrain").glob("*.yaml"))
PLANS = sorted((ROOT / "configs/plan").glob("*.yaml"))
PROBES = sorted((ROOT / "configs/probe").rglob("*.yaml"))
ABLATIONS = sorted((ROOT / "configs/ablate").glob("*.yaml"))
CONFIGS = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*WORLDS, *PLANS, *ABLATIONS, *PROBES})
SMALL = ROOT / "tests/small.yaml"
SYNTHETIC = ["data.sources=[{name: synthetic, drive: 0.25}]"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


def base_of(path: Path) -> list[Path]:
    """Cooldown, cluster, abbreviated and V-JEPA 2.1 files are laid over a main-phase file, inverse dynamics over the
    quickstart, as their headers say."""
    if path.parent == ROOT / "configs":
        return [path] if path.stem == "quickstart" else [ROOT / "configs/quickstart.yaml", path]
    if path.stem == "inverse-dynamics":
        return [ROOT / "configs/quickstart.yaml", path]
    main, newer = ROOT / "configs/pretrain/vitl16-256-16f.yaml", ROOT / "configs/pretrain/vjepa2.1.yaml"
    if path.stem.startswith("vjepa2.1"):
        return [main, path] if path == newer else [main, newer, path]
    over = path.parent.name in {"cooldown", "cluster"} or "abbreviated" in path.stem
    return [main, path] if over else [path]


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_shipped_config_says_what_it_costs_and_has_no_problem(path):
    header = path.read_text().split("\nrun:")[0]
    assert all(word in header for word in ("# Command", "# Cost", "# Expect")), "the header is incomplete"
    over = ["init.load=weights"] if path.parent.name == "cooldown" else []
    config = load(PretrainConfig, base_of(path), [*over, *SYNTHETIC])
    validate(config)


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_the_command_in_the_header_has_no_problem(path, monkeypatch, tmp_path):
    text = path.read_text().replace("\\\n#", "")
    words = shlex.split(next(line for line in text.splitlines() if line.startswith("# Command")))[2:]
    assert words[:2] in (["vjepa-lab", "pretrain"], ["sbatch", "docker/pretrain.sbatch"])
    assert str(path.relative_to(ROOT)) in words
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for word in words:  # the checkpoint of the run before
        if word.startswith("init.checkpoint="):
            checkpoint = Path(word.partition("=")[2])
            checkpoint.parent.mkdir(parents=True)
            checkpoint.touch()
    config = load(PretrainConfig, [w for w in words[2:] if "=" not in w], [w for w in words[2:] if "=" in w])
    validate(config)
    if config.trainer.nodes > 1:
        script = (ROOT / "docker/pretrain.sbatch").read_text()
        assert f"--nodes={config.trainer.nodes}\n" in script
        assert f"--ntasks-per-node={config.trainer.devices}\n" in script


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_shipped_config_trains_when_made_small(path, tmp_path):
    over = ["init.load=weights", "init.checkpoint=null"] if path.parent.name == "cooldown" else []
    over += ["inverse.unfreeze_last=1"] if path.stem == "inverse-dynamics" else []
    config = load(PretrainConfig, [*base_of(path), SMALL], [f"run.dir={tmp_path / 'run'}", *over, *SYNTHETIC])
    assert pretrain(config) == 0
    assert read_metrics(tmp_path / "run")[-1]["step"] == 2


def test_a_paper_config_asks_for_videos_and_does_not_make_some_up():
    with pytest.raises(ConfigError, match=r"data\.sources: the list is empty"):
        validate(load(PretrainConfig, [ROOT / "configs/pretrain/vitl16-256-16f.yaml"]))


def test_the_paper_configs_say_what_the_paper_says():
    config = load(
        PretrainConfig, [ROOT / "configs/pretrain/vitg16-256-16f.yaml", ROOT / "configs/cluster/slurm-16x8.yaml"]
    )
    assert config.encoder.resolved() == (1408, 40, 22, 6144)
    assert (config.optim.start_lr, config.optim.lr, config.optim.warmup) == (1e-4, 5.25e-4, 12_000)
    assert (config.ema.start, config.ema.end, config.optim.weight_decay) == (0.99925, 0.99925, 0.04)
    assert config.data.batch * config.trainer.devices * config.trainer.nodes == 3072
    assert [(m["blocks"], m["scale"]) for m in config.masks] == [(8, 0.15), (2, 0.7)]
    assert (config.transform.scale, config.transform.aspect) == ((0.3, 1.0), (0.75, 1.35))


@pytest.mark.parametrize("path", WORLDS + PLANS, ids=name)
def test_a_world_model_says_what_it_costs_and_its_command_has_no_problem(path, monkeypatch, tmp_path):
    text = path.read_text()
    assert all(f"\n# {word}" in text for word in ("Command", "Cost", "Expect"))
    command = next(line for line in text.replace("\\\n#", "").splitlines() if line.startswith("# Command"))
    words = shlex.split(command)[2:]
    verb, schema = ("posttrain", PosttrainConfig) if path in WORLDS else ("plan", PlanConfig)
    assert words[:3] == ["vjepa-lab", verb, str(path.relative_to(ROOT))]
    words = cli._split(words)[1][3:]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for word in words:
        key, _, value = word.partition("=")
        if key in ("init.encoder", "checkpoint") and value.startswith("runs/"):
            Path(value).parent.mkdir(parents=True)
            Path(value).touch()
    validate(load(schema, [path], words))


@pytest.mark.parametrize("path", ABLATIONS, ids=name)
def test_the_arms_of_an_ablation_are_measured_to_be_equal_but_for_what_they_declare(path, monkeypatch, tmp_path):
    text = path.read_text()
    assert all(f"\n# {word}" in text for word in ("Command", "Cost", "Expect"))
    assert f"\n# Command  vjepa-lab ablate {path.relative_to(ROOT)}\n" in text
    monkeypatch.chdir(ROOT)
    config = load(AblateConfig, [path], [f"out={tmp_path}", "draws=2", "timed=0", "progress=false"])
    validate(config)
    assert len(config.seeds) >= 3
    config.seeds = [0]
    plan.make(config)


@pytest.mark.parametrize("path", PROBES, ids=name)
def test_a_measurement_says_what_it_costs_and_its_command_has_no_problem(path, monkeypatch, tmp_path):
    text = path.read_text()
    assert all(f"\n# {word}" in text for word in ("Command", "Cost", "Expect"))
    command = next(line for line in text.replace("\\\n#", "").splitlines() if line.startswith("# Command"))
    words = shlex.split(command)[2:]
    assert words[:2] == ["vjepa-lab", "probe"]
    assert str(path.relative_to(ROOT)) in words
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    files, values = cli._arguments(cli.VERBS["probe"], cli._split(words[2:])[1])
    for word in values:
        key, _, value = word.partition("=")
        if key == "checkpoint" and value.startswith("runs/"):
            Path(value).parent.mkdir(parents=True)
            Path(value).touch()
    validate(load(ProbeConfig, files, values))
