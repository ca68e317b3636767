"""Run the command `hearbench` by `python -m hearbench`."""

import sys

from hearbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
