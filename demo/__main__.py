"""Command line: ``python -m demo``, see :mod:`demo.page`."""

import sys

from demo.page import main

if __name__ == "__main__":
    sys.exit(main())
