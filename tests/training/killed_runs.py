"""A training that is killed at random moments and resumed, again and again, beside an unbroken one.

Each life of a run is forked from this process, which has imported everything.
"""

import argparse
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import classification.engine
import fam_det.training.detection
from tests.training.test_group import fork_ranks

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

ENGINES = {
    "detection": fam_det.training.detection,
    "retinanet": fam_det.training.detection,
    "classification": classification.engine,
}
HANGS = 90.0  # seconds after which a process that lost its group counts as hanging


class LossLog(HookBase):
    """Every loss of every iteration, to the last bit."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        losses = {name: latest[name][0] for name in sorted(latest) if "loss" in name}
        with self.file.open("a") as file:
            file.write(json.dumps([self.trainer.iter, losses]) + "\n")


def train(args: argparse.Namespace) -> None:
    """One life of a run, in one of its processes."""
    engine: Any = ENGINES[args.kind]
    cfg = engine.load_config(args.config_file, ["OUTPUT_DIR", args.output, *args.opts])
    seed_all_rng(cfg.SEED + comm.get_rank())
    trainer = engine.Trainer(cfg)
    trainer.resume_or_load(resume=True)
    if int(os.environ.get("RANK", "0")) == 0:
        trainer.register_hooks([LossLog(Path(args.output) / "losses.jsonl")])
    trainer.train()


def wait(children: list[int], seconds: float) -> list[int]:
    """Those that are still there after some time."""
    end, left = time.monotonic() + seconds, list(children)
    while left and time.monotonic() < end:
        left = [child for child in left if os.waitpid(child, os.WNOHANG)[0] == 0]
        time.sleep(0.01)
    return left


def live(args: argparse.Namespace, output: Path, kill_after: float | None) -> dict[str, Any]:
    """One life; what came of it."""
    output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    args.output = str(output)
    children = fork_ranks(train, output, args.processes, args)
    left = wait(children, 600.0 if kill_after is None else kill_after)
    if not left:
        return {"killed": False, "seconds": time.monotonic() - started}
    victims = [random.choice(left)] if random.random() < 0.5 else left
    for child in victims:
        os.kill(child, signal.SIGKILL)
    began = time.monotonic()
    hanging = wait(left, HANGS)
    for child in hanging:
        os.kill(child, signal.SIGKILL)
    wait(hanging, HANGS)
    return {
        "killed": True,
        "half_written": len(list(output.glob(".*.pth.*"))),
        "alone": len(victims) < len(left),
        "seconds_to_stop": time.monotonic() - began,
        "hanging": len(hanging),
    }


def is_done(output: Path) -> bool:
    return (output / "model_final.pth").exists() and (output / "metrics.json").exists()


def kill_and_resume(
    kind: str, processes: int, kills: int, folder: Path, config_file: str, opts: list[str]
) -> list[dict[str, Any]]:
    """What came of every life; ``folder`` then has an unbroken run, and broken ones by number."""
    args = argparse.Namespace(
        kind=kind, processes=processes, config_file=config_file, opts=opts, eval_only=False
    )
    args.num_gpus, args.num_machines, args.machine_rank, args.dist_url = 0, 1, 0, "auto"
    random.seed(0)
    longest = 0.8 * live(args, folder / "unbroken", None)["seconds"]
    lives: list[dict[str, Any]] = []
    run = 0
    while True:
        output = folder / f"broken{run}"
        whole = not output.exists()
        enough = sum(life["killed"] for life in lives) >= kills
        life = live(args, output, None if enough else random.uniform(0.3, longest))
        lives.append(life)
        if not life["killed"]:
            if whole:  # the machine may have been busy before
                longest = min(longest, 0.8 * life["seconds"])
            assert is_done(output), [x.read_text() for x in output.glob("log*.txt")]
            run += 1
            if enough:
                return lives
