"""Training framework for JEPA video world models. Importing the package imports nothing else.

``vjepa_lab.load`` is ``vjepa_lab.weights.load``, reached when it is first asked for: it needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vjepa_lab.weights import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from vjepa_lab.weights import load

        return load
    raise AttributeError(f"module 'vjepa_lab' has no attribute '{name}'")
