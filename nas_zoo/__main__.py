"""`python -m nas_zoo`: the same as the command nas-zoo."""

import sys

from nas_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
