"""ImageNet and other folders of pictures: one folder per class.

    <path>/n01440764/n01440764_10026.JPEG

Classes are numbered by the sorted names of their folders. A picture is a clip of its repetitions, as in a listing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from tqdm import tqdm

from vjepa_lab import dist
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.containers import IMAGES
from vjepa_lab.data.sources._annotated import Entry, expect_folder, to_table
from vjepa_lab.data.sources.listing import ListingReader, class_names
from vjepa_lab.registry import SOURCES

_MANY = 100
"folders above which a bar shows how far the listing has come"


@SOURCES.register
@dataclass
class Imagenet:
    """Pictures in one folder per class."""

    path: str = ""
    "the folder of the folders: train or val"
    weight: float = 1.0
    "share of the mix"
    classes: str = ""
    "file with one folder name per line: fixes the numbers of the labels, and leaves other folders out"
    subset: dict[str, int] = field(default_factory=dict)
    "{per_class: n} keeps the first n pictures of each class, by ascending name"

    def open(self, spec: ClipSpec) -> ListingReader:
        """List the pictures.

        Raises:
            ValueError: there is no such folder, or no picture in it.
        """
        folder = expect_folder("imagenet", self.path, "a folder of one folder of pictures per class", "path")
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
        if not names:
            raise ValueError(f"imagenet: path: got '{folder}' with no folder in it, expected one per class")
        if self.classes:
            wanted = class_names(self.classes)
            lacking = sorted(set(wanted) - set(names))
            if lacking:
                raise ValueError(f"imagenet: classes: {self.classes}: '{lacking[0]}' has no folder in '{folder}'")
            names = wanted
        shown = tqdm(names, "list pictures", disable=len(names) < _MANY or not dist.is_main_process(), leave=False)
        entries = [
            Entry(file, os.path.join(name, file), name, os.path.join(folder, name))
            for name in shown
            for file in sorted(os.listdir(os.path.join(folder, name)))
            if file.lower().rpartition(".")[2] in IMAGES
        ]
        table = to_table("imagenet", folder, entries, root=folder, classes=names, subset=self.subset)
        return ListingReader(table, spec, [folder], kind="imagenet")
