"""What `python -m tools.demo` says before it starts anything."""

import subprocess
import sys

from fam_det.analysis.processes import claimed
from tools.demo.detection import DetectionDemo as Demo


def run_tool(demo: Demo, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.demo", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=demo.root)


def test_second_demo_in_a_folder_is_told(demo: Demo) -> None:
    with claimed(demo.output):
        result = run_tool(demo, "--output", str(demo.output))
    assert result.returncode == 1
    expected = "another demo is running there; give --output another folder"
    assert result.stderr.splitlines() == [expected]


def test_half_a_pair_is_told(demo: Demo) -> None:
    result = run_tool(demo, "--output", str(demo.output), "SOLVER.MAX_ITER")
    assert result.returncode == 2
    assert "KEY VALUE: got 1 words, expected pairs: ['SOLVER.MAX_ITER']" in result.stderr
    assert not demo.output.exists()
