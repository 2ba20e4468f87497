"""Two streams side by side: every micro-batch holds clips and images, on every rank.

Both streams are ``Loader``s with weights, batch size and order of their own; they advance together, so one number of
batches is the position of both, and a run resumes them as it does one.
"""

from __future__ import annotations

from collections.abc import Iterator

from vjepa_lab.batch import Both
from vjepa_lab.data.loader import Loader


class PairedLoader:
    """Clips and images in lockstep; what a run reports of its data (rates, keys) is that of the clips."""

    def __init__(self, clips: Loader, images: Loader) -> None:
        assert len(clips) == len(images)
        assert clips.skips is images.skips
        self.clips = clips
        self.images = images
        self.slots = clips.slots
        self.skips = clips.skips

    @property
    def batches_seen(self) -> int:
        return self.clips.batches_seen

    @property
    def samples_seen(self) -> int:
        return self.clips.samples_seen

    @property
    def waited(self) -> float:
        """Seconds that the training loop has waited for either since the start."""
        return self.clips.waited + self.images.waited

    def __len__(self) -> int:
        return len(self.clips)

    def state_dict(self) -> dict[str, int]:
        return {**self.clips.state_dict(), "images_seen": self.images.samples_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        batches = state["batches_seen"]
        self.clips.load_state_dict({"batches_seen": batches, "samples_seen": state["samples_seen"]})
        # A run that goes on with images where there were none begins with the first image.
        self.images.load_state_dict({"batches_seen": batches, "samples_seen": state.get("images_seen", 0)})

    def __iter__(self) -> Iterator[Both]:
        for clips, images in zip(self.clips, self.images, strict=True):
            yield Both(clips, images)
