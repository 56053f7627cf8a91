"""`python -m nas_zoo.train`: the program of nas_zoo.train.run."""

import sys

from nas_zoo.train.run import main

if __name__ == "__main__":
    sys.exit(main())
