"""What importing the packages changes in a process: what docs/reliability.md says, nothing else."""

import json
import subprocess
import sys

from fam_det.detectron2_compat import WARNINGS

PROGRAM = """
import json, locale, logging, os, random, signal, sys, threading, warnings
import cv2, numpy, torch, torchvision  # the libraries' own effects are theirs

def state():
    return {
        "random numbers": [str(random.getstate()), str(numpy.random.get_state()),
                           torch.get_rng_state().tolist()],
        "defaults of torch": [str(torch.get_default_dtype()), str(torch.get_default_device()),
                              torch.is_grad_enabled(), torch.get_num_threads(),
                              torch.get_num_interop_threads(), torch.backends.cudnn.benchmark,
                              torch.are_deterministic_algorithms_enabled(),
                              torch.multiprocessing.get_sharing_strategy()],
        "numpy": [str(numpy.geterr()), str(numpy.get_printoptions())],
        "logging": [logging.root.level, str(logging.root.handlers)],
        "signals": [str(signal.getsignal(x)) for x in signal.valid_signals()],
        "warnings": [str(x) for x in warnings.filters],
        "path": sys.path,
        "finders": [getattr(x, "__name__", type(x).__name__) for x in sys.meta_path],
        "environment": dict(os.environ),
        "hooks": [str(sys.excepthook), sys.getrecursionlimit()],
        "threads": threading.active_count(),
        "place": [os.getcwd(), locale.setlocale(locale.LC_ALL)],
    }

before = json.loads(json.dumps(state()))
import fam_det.core, fam_det.training.detection, fam_det.modeling, classification.engine
after = json.loads(json.dumps(state()))
print(json.dumps({name: [before[name], after[name]] for name in before
                  if before[name] != after[name]}))
"""


def test_importing_changes_what_the_docs_say_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    changed = json.loads(done.stdout.splitlines()[-1])
    before, after = changed.pop("environment", ({}, {}))
    assert {name: after[name] for name in after if before.get(name) != after[name]} in (
        {},
        {"OPENCV_OPENCL_RUNTIME": "disabled"},  # Detectron2's own
    )
    before, after = changed.pop("finders")
    assert [name for name in after if name not in before] == ["_LastResortFinder"]
    before, after = changed.pop("warnings", ([], []))
    hidden = [message for _, message in WARNINGS]
    assert [x for x in before if x not in after] == []
    assert [x for x in after if x not in before and not any(y in x for y in hidden)] == []
    assert changed == {}


def test_the_core_brings_no_framework_and_changes_nothing() -> None:
    program = (
        "import sys, torch; before = list(sys.meta_path); import fam_det.core; "
        "assert 'detectron2' not in sys.modules and sys.meta_path[1:] == before; "
        "assert type(sys.meta_path[0]).__name__ == '_ApplyBeforeDetectron2'"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
