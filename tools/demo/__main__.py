"""Distil a small detector on two CPU cores and compare it with the same one trained alone.

Builds scenes of handwritten digits, trains a teacher, a student alone and the same student with FAM
(configs/Demo), and writes a table and a picture. Stopped, it goes on from there when run again.
"""

import sys
from pathlib import Path

from tools.demo.command_line import parse_arguments, run
from tools.demo.detection import DetectionDemo
from tools.demo.report import write_report

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "MODEL.DISTILLER.NAME LayerToLayerDistiller"


def main() -> int:
    """Run the demo; returns the exit status."""
    args = parse_arguments(__doc__.splitlines()[0], ROOT / "output" / "demo", EXAMPLE)
    demo = DetectionDemo(ROOT, args.output.resolve(), args.opts)
    return run(demo, write_report, fresh=args.fresh)


if __name__ == "__main__":
    sys.exit(main())
