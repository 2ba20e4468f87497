"""Hugging Face folders of V-JEPA 2, read and written without the package ``transformers``.

A folder is ``config.json``, ``model.safetensors`` (or shards of it with an index) and, for inputs,
``video_preprocessor_config.json``. Tensors are renamed, split and joined as ``_table`` says, bit by bit. There is one
encoder in a folder, read as ``encoder``.

What ``transformers`` computes from the same weights differs in three ways that no conversion can mend. Rows and columns
of positions are counted on the grid of ``crop_size``, whatever the clip. At the targets stands mask token 1 modulo
their number: the second of ten, which was never trained. The pooler of a classifier has the heads of the encoder
(released probes: always 16) and layer norms with eps 1e-6 (released: 1e-5).

Reference: transformers 5.23, models/vjepa2.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vjepa_lab.config import PretrainConfig
from vjepa_lab.weights._table import Depths, to_ours, to_theirs
from vjepa_lab.weights.files import open_safetensors, open_sharded
from vjepa_lab.weights.parts import Parts

EPS = 1e-6
"layer norm of encoder, predictor and (in this dialect alone) pooler"

# Fields of VJEPA2Config that are read, with the values it gives to those that a file leaves out.
_DEFAULTS: dict[str, Any] = {
    "patch_size": 16,
    "crop_size": 256,
    "frames_per_clip": 64,
    "tubelet_size": 2,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "mlp_ratio": 4.0,
    "num_pooler_layers": 3,
    "pred_hidden_size": 384,
    "pred_num_attention_heads": 12,
    "pred_num_hidden_layers": 12,
    "pred_num_mask_tokens": 10,
}
# Fields that our modules have no choice about.
_FIXED: dict[str, Any] = {
    "model_type": "vjepa2",
    "in_chans": 3,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "layer_norm_eps": EPS,
    "pred_mlp_ratio": 4.0,
}
# Fields of VJEPA2Config that shapes do not tell, under our names.
_FACTS = {
    "num_attention_heads": "heads",
    "pred_num_attention_heads": "predictor_heads",
    "crop_size": "crop",
    "frames_per_clip": "frames",
}


def read_folder(path: str | Path) -> Parts:
    """Networks of a folder: ``encoder``, ``predictor``, and ``classifiers.0`` of a ``VJEPA2ForVideoClassification``.

    ``facts`` holds heads, predictor_heads, crop, frames and rope; of a classifier pooler_heads, pooler_eps and labels.

    Raises:
        ValueError: no config.json or no safetensors in it, another kind of model, an option that ours lacks, tensors
            that are missing or in excess.
    """
    path = Path(path)
    raw = _read_json(path / "config.json")
    wrong = [f"{k}={raw[k]!r} (expected {v!r})" for k, v in _FIXED.items() if k in raw and raw[k] != v]
    if "model_type" not in raw:
        wrong.append("no model_type (expected 'vjepa2')")
    if wrong:
        raise ValueError(f"{path / 'config.json'}: not a model that this package has: {'; '.join(wrong)}")
    fields = _DEFAULTS | raw
    classifier = "VJEPA2ForVideoClassification" in (raw.get("architectures") or ())
    depths = Depths(
        encoder=fields["num_hidden_layers"],
        predictor=fields["pred_num_hidden_layers"],
        mask_tokens=fields["pred_num_mask_tokens"],
        pooler=fields["num_pooler_layers"] if classifier else None,
    )
    theirs = _read_tensors(path)
    try:
        networks = to_ours(theirs, depths)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    facts = {ours: fields[name] for name, ours in _FACTS.items()} | {"rope": "released"}
    if classifier:
        labels = raw.get("id2label") or {}
        facts |= {"pooler_heads": fields["num_attention_heads"], "pooler_eps": EPS}
        facts["labels"] = [labels[key] for key in sorted(labels, key=int)]
    return Parts(path=path, dialect="huggingface", networks=networks, facts=facts)


def write_folder(
    folder: Path,
    networks: Mapping[str, Mapping[str, Tensor]],
    config: PretrainConfig,
    *,
    labels: Sequence[str] = (),
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``video_preprocessor_config.json`` into a new ``folder``.

    Args:
        networks: encoder, predictor and perhaps ``classifiers.0``, whose sizes are those of ``config``.
        labels: names of the classes of ``classifiers.0``.
        origin: strings to keep in the metadata of the safetensors file.

    Raises:
        ValueError: a tensor is missing, or one has no place in such a folder.
        FileExistsError: the folder is there already.
    """
    head = networks.get("classifiers.0", {})
    pooler = len({name.split(".")[2] for name in head if name.startswith("pooler.blocks.")}) if head else None
    size, predictor = config.encoder.resolved(), config.predictor
    theirs = to_theirs(networks, Depths(size.depth, predictor.depth, predictor.mask_tokens, pooler))
    about: dict[str, Any] = {
        **_FIXED,
        "architectures": ["VJEPA2Model" if pooler is None else "VJEPA2ForVideoClassification"],
        "dtype": str(theirs[next(iter(theirs))].dtype).removeprefix("torch."),
        "patch_size": config.encoder.patch,
        "crop_size": config.encoder.crop,
        "frames_per_clip": config.encoder.frames,
        "tubelet_size": config.encoder.tubelet,
        "hidden_size": size.width,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.depth,
        "mlp_ratio": _ratio(size.mlp, size.width),
        "pred_hidden_size": predictor.width,
        "pred_num_attention_heads": predictor.heads,
        "pred_num_hidden_layers": predictor.depth,
        "pred_num_mask_tokens": predictor.mask_tokens,
        "drop_path_rate": 0.0,
    }
    if pooler is not None:
        names = list(labels) or [f"LABEL_{i}" for i in range(len(head["linear.bias"]))]
        about["num_pooler_layers"] = pooler
        about["id2label"] = {str(i): name for i, name in enumerate(names)}
        about["label2id"] = {name: i for i, name in enumerate(names)}
    folder.mkdir(parents=True)
    save_file(theirs, folder / "model.safetensors", metadata={"format": "pt", **(origin or {})})
    _write_json(folder / "config.json", about)
    _write_json(folder / "video_preprocessor_config.json", _preprocessor(config.encoder.crop))


def _preprocessor(crop: int) -> dict[str, Any]:
    """Shorter side to crop * 256 / 224 pixels, bilinear; centre crop; ImageNet mean and deviation."""
    return {
        "video_processor_type": "VJEPA2VideoProcessor",
        "do_resize": True,
        "size": {"shortest_edge": int(crop * 256 / 224)},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": crop, "width": crop},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }


def _ratio(hidden: int, width: int) -> float:
    """A ratio from which ``int(width * ratio)`` gives ``hidden`` back."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if (path / "model.safetensors").is_file():
        return open_safetensors(path / "model.safetensors")[0]
    if (path / "model.safetensors.index.json").is_file():
        return open_sharded(path / "model.safetensors.index.json")
    raise ValueError(f"{path}: no model.safetensors in it, nor an index of shards; other weight files are not read")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file}: no such file; a Hugging Face folder has one")
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(read, dict):
        raise ValueError(f"{file}: expected a mapping, got a {type(read).__name__}")
    return read


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
