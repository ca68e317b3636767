"""Run the command `hearbench` as `python -m hearbench`."""

import sys

from hearbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
