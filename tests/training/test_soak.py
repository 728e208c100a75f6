"""2,000 iterations on images of random sizes: memory, open files and threads do not grow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.conftest import cells  # noqa: F401  a fixture

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_grows(tmp_path: Path, cells: str) -> None:  # noqa: F811
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.soak", "2000", cells, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = {int(k): x for k, x in json.loads(done.stdout.splitlines()[-1]).items()}
    print(json.dumps(seen))
    assert seen[2000]["files"] <= seen[200]["files"]
    assert seen[2000]["threads"] <= seen[200]["threads"]
    # MB; a copy of the student's weights a hundred iterations would be 100.
    assert seen[2000]["memory"] - seen[1000]["memory"] < 10
    assert seen[1000]["memory"] - seen[200]["memory"] < 30
