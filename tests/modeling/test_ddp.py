"""Data-parallel training as Detectron2 does it: no search for unused parameters."""

import subprocess
import sys


def test_two_processes_train_the_same_weights() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.modeling.ddp_steps"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
