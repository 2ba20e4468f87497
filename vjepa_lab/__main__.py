"""``python -m vjepa_lab`` is ``vjepa-lab``."""

import sys

from vjepa_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
