"""Run the doctor: ``python -m fam_det.doctor``."""

import sys

from fam_det.doctor.command_line import main

if __name__ == "__main__":
    sys.exit(main())
