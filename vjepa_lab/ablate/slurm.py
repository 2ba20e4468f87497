"""The runs of an ablation as a SLURM array: one element per run, each the ordinary command on its ``config.yaml``."""

from __future__ import annotations

from pathlib import Path

from vjepa_lab.ablate.runs import is_finished, write_config
from vjepa_lab.config import ConfigError
from vjepa_lab.config_ablate import AblateConfig, Run

_SCRIPT = """#!/bin/bash
# sbatch {path}
#
# {count} runs of an ablation, one per element; options of sbatch (--time=..., --partition=..., --array=0-3) go before
# the script. Two minutes before the time limit a run writes a checkpoint and requeues its element. When all are done,
# the command that wrote this script, without slurm=true, measures and compares them.
#SBATCH --job-name=vjepa-ablate
#SBATCH --array=0-{last}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={devices}
{gpus}#SBATCH --cpus-per-task={cpus}
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={out}/slurm-%A_%a.txt

set -euo pipefail
export OMP_NUM_THREADS={threads}
config=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {listing})
srun --kill-on-bad-exit=1 vjepa-lab pretrain "$config"
"""


def write(config: AblateConfig, runs: list[Run]) -> Path | None:
    """Write ``runs.txt``, the configuration of every run that is not finished, and ``ablate.sbatch``; its path.

    None where every run is finished.

    Raises:
        ConfigError: arms need different devices, or the number of devices is left open.
    """
    left = [run for run in runs if not is_finished(run)]
    if not left:
        return None
    trainers = [run.config.trainer for run in left]
    places = {(t.nodes, t.devices, t.accelerator) for t in trainers}
    if len(places) > 1:
        raise ConfigError(f"slurm: expected equal trainer.nodes, devices and accelerator in all arms, got {places}")
    nodes, devices, accelerator = places.pop()
    if devices == 0:
        raise ConfigError(
            "slurm: trainer.devices is 0 (all); give the number per node: changes: {trainer: {devices: 1}}"
        )
    out = Path(config.out)
    listing, script = out / "runs.txt", out / "ablate.sbatch"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{write_config(run)}\n" for run in left), encoding="utf-8")
    workers = left[0].config.data.workers
    text = _SCRIPT.format(
        path=script,
        count=len(left),
        last=len(left) - 1,
        nodes=nodes,
        devices=devices,
        gpus="" if accelerator == "cpu" else f"#SBATCH --gpus-per-node={devices}\n",
        cpus=max(workers, 1) + 1,
        out=out,
        threads=max(workers, 1) + 1 if accelerator == "cpu" else 1,
        listing=listing,
    )
    script.write_text(text, encoding="utf-8")
    return script
