"""The demo of a detector: ``python -m tools.demo``."""

import sys

from tools.demo.detection import DEMO
from tools.demo.study import main

if __name__ == "__main__":
    sys.exit(main(DEMO))
