"""The command for a checkout: `python compile.py MODEL --recipe qdrop_w4a4`; installed, it is called `isobit`."""

import sys
from pathlib import Path

from isobit.cli import main

if __name__ == "__main__":
    # Python put the checkout first, for the line above. A network's own `pipeline` must not be ours.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    main()
