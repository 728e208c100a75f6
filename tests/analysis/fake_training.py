"""A stand-in for a training tool: leaves the files of a training, step by step, trains nothing.

Its score is a function of the config's name, the loss weight and the seed alone. What it is to do
otherwise is in files beside the output folders: `fail` has names of folders that fail, `hold` those
that wait before their second half until the file is gone; `nan` those that find nothing;
`started` collects what was started.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

MAX_ITER = 40
BASE = {"teacher": 60.0, "alone": 30.0, "taught": 34.0}


def score(name: str, weight: float, seed: int) -> float:
    return BASE[name] + min(weight, 5.0) - max(weight - 5.0, 0.0) / 5 + seed * (1 + len(name) % 3)


def named_in(file: Path, name: str) -> bool:
    return file.exists() and name in file.read_text().split("\n")


def log(folder: Path, iteration: int, **values: float) -> None:
    with (folder / "metrics.json").open("a") as metrics:
        metrics.write(json.dumps({"iteration": iteration, "time": 0.5, **values}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("opts", nargs="*")
    args = parser.parse_args()
    opts = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    folder = Path(opts["OUTPUT_DIR"])
    control = folder.parent
    with (control / "started").open("a") as started:
        cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        threads = os.environ["OMP_NUM_THREADS"]
        how = "resumed" if args.resume else "started"
        started.write(json.dumps([folder.name, how, os.getpid(), threads, cores, opts]) + "\n")
    if "MODEL.TEACHER.WEIGHTS" in opts:
        Path(opts["MODEL.TEACHER.WEIGHTS"]).read_text()  # there before its student starts
    config = f"DATASETS: {{}}\nMODEL: {{}}\nSOLVER: {{MAX_ITER: {MAX_ITER}}}\n"
    (folder / "config.yaml").write_text(config)
    if not args.resume:
        log(folder, 19)
        (folder / "model_0000019.pth").write_text("half")
        (folder / "last_checkpoint").write_text("model_0000019.pth")
    while named_in(control / "hold", folder.name):
        time.sleep(0.02)
    if named_in(control / "fail", folder.name):
        print("Traceback (most recent call last):")
        sys.exit(f"ValueError: no good in {opts['DATASETS.COCO']}")
    log(folder, 39)
    (folder / "model_final.pth").write_text("whole")
    (folder / "last_checkpoint").write_text("model_final.pth")
    weight = float(opts.get("MODEL.DISTILLER.LOSS_WEIGHT", 0.0))
    found = score(args.config_file.stem, weight, int(opts["SEED"]))
    found = math.nan if named_in(control / "nan", folder.name) else found
    log(folder, 40, **{"bbox/AP": found})


if __name__ == "__main__":
    main()
