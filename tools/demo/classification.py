"""Distil a small classifier on two CPU cores and compare it with the same one trained alone.

Trains a teacher, a student alone and the same student with FAM-KD on handwritten digits
(configs/Digits), and writes a table and a picture. Stopped, it goes on from there when run again.
"""

import sys
from pathlib import Path

from tools.demo.command_line import parse_arguments, run
from tools.demo.digits import DigitsDemo
from tools.demo.digits_report import write_report

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "MODEL.DISTILLER.FAM.HIGH_PASS none"


def main() -> int:
    """Run the demo; returns the exit status."""
    output = ROOT / "output" / "demo_classification"
    args = parse_arguments(__doc__.splitlines()[0], output, EXAMPLE)
    demo = DigitsDemo(ROOT, args.output.resolve(), args.opts)
    return run(demo, write_report, fresh=args.fresh)


if __name__ == "__main__":
    sys.exit(main())
