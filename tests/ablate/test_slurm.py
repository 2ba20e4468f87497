"""The array script has an element per unfinished run, each the ordinary command on an ordinary configuration."""

import shlex
import subprocess
from pathlib import Path

import pytest

from vjepa_lab.ablate import runs, slurm
from vjepa_lab.config import ConfigError, PretrainConfig
from vjepa_lab.config_ablate import runs_of
from vjepa_lab.merge import load
from vjepa_lab.validate import validate


def test_every_element_of_the_array_is_one_run_that_has_no_problem(tiny):
    config = tiny()
    grid = runs_of(config)
    script = slurm.write(config, grid)
    text = script.read_text()
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert "#SBATCH --array=0-3\n" in text
    assert "--gpus-per-node" not in text
    pick = next(line for line in text.splitlines() if line.startswith("config="))
    for i, run in enumerate(grid):
        chosen = subprocess.run(
            ["bash", "-c", f"SLURM_ARRAY_TASK_ID={i}\n{pick}\necho $config"], capture_output=True, text=True, check=True
        ).stdout.strip()
        read = load(PretrainConfig, [chosen])
        validate(read)
        assert read == run.config
    assert shlex.split(text.splitlines()[-1]) == [
        "srun",
        "--kill-on-bad-exit=1",
        "vjepa-lab",
        "pretrain",
        "$config",
    ]


def test_finished_runs_are_left_out(tiny):
    config = tiny(seeds=[0])
    grid = runs_of(config)
    assert runs.train(grid[0]) == 0
    assert slurm.write(config, grid) is not None
    assert (Path(config.out) / "runs.txt").read_text().split() == [f"{config.out}/tube/0/config.yaml"]
    assert runs.train(grid[1]) == 0
    assert slurm.write(config, grid) is None


def test_gpus_are_asked_for_and_an_open_number_is_refused(tiny):
    config = tiny(changes={"trainer": {"accelerator": "gpu", "devices": 4, "nodes": 2}})
    text = slurm.write(config, runs_of(config)).read_text()
    for line in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"):
        assert f"#SBATCH {line}\n" in text
    config = tiny(changes={"trainer": {"devices": 0}}, out=tiny().out + "2")
    with pytest.raises(ConfigError, match="give the number per node"):
        slurm.write(config, runs_of(config))
