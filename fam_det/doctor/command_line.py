"""The doctor's command line: every check, its facts in order, the exit status."""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fam_det.doctor import data_sets, frameworks, machine, weights
from fam_det.doctor.check import Check, run_check
from fam_det.doctor.fact import GAP, NOTE, Fact
from fam_det.doctor.libraries import (
    INSTALL,
    TORCH,
    check_optional,
    library_checks,
    pip_install,
)

AT_ONCE = 4  # checks
MEND_ABOVE = "mend the gaps above"

DESCRIPTION = """\
What is installed, and what to do about each gap: one line a fact.

ok: as it should be; note: worth knowing, a training can start; gap: something needed is missing.
Looks at Python, PyTorch, Detectron2, other libraries, GPUs, data sets under DETECTRON2_DATASETS,
cached weights and the hosts they come from. Changes nothing.
"""

EPILOG = """\
examples:
  python -m fam_det.doctor
  DETECTRON2_DATASETS=/path/to/datasets python -m fam_det.doctor --offline

Exit status: 0 when a training can start, 1 when there is a gap.
"""


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fam_det.doctor",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--offline", action="store_true", help="ask no host whether it answers")
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="for all checks together (default: %(default).0f)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="where runs will go (%(default)s)"
    )
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Print the facts; returns the exit status."""
    args = parse_arguments(words)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    gaps = []
    for fact in examine(checks(args.output.resolve(), offline=args.offline), args.timeout):
        gaps += [fact] if fact.state == GAP else []
        print(fact.wrapped(width) if width else fact, flush=True)
    print(f"\n{verdict(gaps)}")
    return 1 if gaps else 0


def verdict(gaps: list[Fact]) -> str:
    """What all of it comes to, and the first thing to do."""
    if not gaps:
        return "A training can start."
    found = f"{len(gaps)} {'gap keeps' if len(gaps) == 1 else 'gaps keep'} a training from starting"
    installable = sum(fact.advice.startswith((INSTALL, MEND_ABOVE)) for fact in gaps)
    if not installable:
        return f"{found}."
    many = "all" if installable == len(gaps) else f"{installable}"
    return f"{found}; `{INSTALL}` mends {many}, in a .venv of its own: a few minutes, 6 GB."


def examine(wanted: list[Check], seconds: float) -> Iterator[Fact]:
    """The facts of all checks in their order, several checks at once."""
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(min(AT_ONCE, machine.cores())) as pool:
        for facts in pool.map(partial(run_check, deadline=deadline), wanted):
            yield from facts


def checks(output: Path, *, offline: bool) -> list[Check]:
    """Every check, in the order of the report."""
    return [
        *software_checks(),
        Check("optional libraries", check_optional, INSTALL, NOTE),
        *data_checks(),
        *weight_checks(offline=offline),
        Check("disk", partial(machine.check_disk, output), "set OUTPUT_DIR to another folder"),
        Check("shared memory", machine.check_shared_memory, "DATALOADER.NUM_WORKERS 0", NOTE),
    ]


def software_checks() -> list[Check]:
    """Python and what a training imports."""
    use = f"{frameworks.PURE_PYTHON}, or {frameworks.FROM_SOURCE}"
    pair = f"{pip_install(TORCH)} and the torchvision of the same release"
    return [
        Check("Python", machine.check_python, "use another Python"),
        Check("PyTorch", frameworks.check_torch, f"{INSTALL}, or {pip_install(TORCH)}"),
        Check("GPU", frameworks.check_gpus, "add MODEL.DEVICE cpu to commands", NOTE),
        Check("torchvision", frameworks.check_torchvision, f"{INSTALL}, or {pair}"),
        *library_checks(),
        Check("Detectron2", frameworks.check_detectron2, f"{INSTALL}, or {use}"),
        Check("fam_det", frameworks.check_project, MEND_ABOVE),
    ]


def data_checks() -> list[Check]:
    """Data sets."""
    advice = f"look at {data_sets.VARIABLE}"
    splits = [
        Check(f"COCO {split}", partial(data_sets.check_coco, split), advice, NOTE)
        for split in data_sets.SPLITS
    ]
    return [Check("data sets", data_sets.check_root, advice, NOTE), *splits]


def weight_checks(*, offline: bool) -> list[Check]:
    """Caches, and hosts unless offline."""
    caches = Check("weights", weights.check_caches, "look at FVCORE_CACHE and TORCH_HOME", NOTE)
    if offline:
        return [caches]
    advice = "download weights elsewhere and copy them into the caches above"
    zoo, torchvision = (url.split("/")[2] for url in (weights.ZOO, weights.TORCHVISION))
    return [
        caches,
        Check(zoo, weights.check_zoo, advice, NOTE),
        Check(torchvision, weights.check_torchvision_host, advice, NOTE),
    ]
