"""Sources: one kind of data per file, each a dataclass in ``registry.SOURCES`` and its random-access reader."""
