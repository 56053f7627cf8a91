"""What tests/data/test_programs.py runs in two processes: a training whose set is read as one of more than 2 GB is."""

import sys

from nas_zoo.data import named
from nas_zoo.train.run import main

if __name__ == "__main__":
    named.DEVICE_LIMIT_GB = 0.0
    sys.exit(main(sys.argv[1:]))
