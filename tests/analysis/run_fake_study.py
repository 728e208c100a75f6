"""tools/study.py with the stand-in for its training tools."""

import importlib.util
import sys
from pathlib import Path

from fam_det.analysis import runner

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("study", HERE.parents[1] / "tools" / "study.py")
assert spec is not None and spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
runner.POLL_SECONDS = 0.02  # the stand-in takes no longer
tool.training_command = lambda study: [sys.executable, str(HERE / "fake_training.py")]

if __name__ == "__main__":
    sys.exit(tool.main())
