"""Each layer imports only what lies below it; the table is ARCHITECTURE in code. Function-level imports count."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vjepa_lab"
BASE = {"batch", "dist", "registry", "config", "config_world", "merge", "validate", "validate_world"} | {
    "poses",
    "robots",
    "consistency",
    "config_inverse",
    "config_masks",
    "config_probe",
    "validate_inverse",
    "validate_masks",
    "validate_probe",
    "config_ablate",
    "validate_ablate",
}
CORE = {"jepa", "dense_jepa", "inverse", "world", "weights", "features", "baselines", "tokens"}
ALLOWED = {
    "nn": {"batch", "nn"},
    "masks": BASE | {"masks"},
    "data": BASE | {"data"},
    "core": BASE | CORE | {"nn"},
    "probes": BASE | CORE | {"nn", "data.streams", "data.draws", "probes", "report"},
    "planning": BASE | CORE | {"data", "planning", "report"},
    "curation": BASE | {"features", "tokens", "data", "curation"},
    "report": {"tokens", "report"},
    "maskview": BASE | {"features", "masks", "data", "report", "maskview"},
    "train": BASE | CORE | {"nn", "masks", "maskview", "data", "probes", "train", "report"},
    "ablate": BASE | CORE | {"masks", "data", "probes", "train", "report", "ablate"},
    "base": BASE,
    "cli": {"config", "config_probe", "config_world", "merge", "validate", "registry"},
}
LIGHTNING_IN = {"train"}


def layer(module: str) -> str:
    top = module.split(".")[0]
    if top in BASE:
        return "base"
    return "core" if top in CORE else top


def ours(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name not in {"__main__.py"} and p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=ours)
def test_a_file_imports_only_from_its_own_layer_and_below(path):
    allowed = ALLOWED[layer(ours(path))]
    for name in imports(path):
        if name.startswith("vjepa_lab."):
            inner = name.removeprefix("vjepa_lab.")
            top, two = inner.split(".")[0], ".".join(inner.split(".")[:2])
            assert top in allowed or two in allowed or top == "__version__", f"{ours(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=ours)
def test_lightning_is_imported_by_train_alone(path):
    if layer(ours(path)) not in LIGHTNING_IN:
        assert not [n for n in imports(path) if n.split(".")[0] in {"lightning", "pytorch_lightning"}]
