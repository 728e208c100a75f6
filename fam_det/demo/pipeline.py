"""The demo's three trainings, each a run of ``tools/train_net.py``, resumed where it was stopped.

A stage's folder holds what Detectron2 writes, ``stdout.txt``, and ``stage.json``: what the stage
was made of (a fingerprint of its settings) and, once it is finished, its result. A finished stage
is skipped; a stage of other settings is made anew.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from fvcore.common.config import CfgNode

from fam_det.demo.progress import Progress, evaluations, iterations_done, read_metrics
from fam_det.demo.scenes import RECORD_FILE, SceneParams, build_dataset, discard, split_paths

SEED = 1  # of both students
FAILURE_LINES = 15
STATE_FILE = "stage.json"

Runner: TypeAlias = Callable[[Sequence[str], Path, Path, Callable[[], None]], int]
"""Runs a command in a folder, appends its output to a file, calls a function about once a second.

Returns the exit status.
"""


@dataclass(frozen=True)
class Stage:
    """One training.

    Args:
        name: of its folder, and of its config in configs/Demo.
        title: for people.
        cost: about how long an iteration takes, relative to the other stages.
        taught: whether it is distilled from the first stage.
    """

    name: str
    title: str
    cost: float
    taught: bool = False


TEACHER = Stage("teacher", "teacher", 1.0)
BASELINE = Stage("student_baseline", "student alone", 0.65)
FAM = Stage("student_fam", "student with FAM", 1.1, taught=True)
STAGES = (TEACHER, BASELINE, FAM)


class StageFailed(RuntimeError):
    """A training ended with an error; the message holds its last lines and where the rest is."""


@dataclass
class Demo:
    """Where a demo runs and what it is made of.

    Args:
        root: of the repository: its tools and configs.
        output: folder that receives everything.
        opts: KEY VALUE pairs for the configs of all stages, as `tools/train_net.py` takes them.
        params: of the data set.
    """

    root: Path
    output: Path
    opts: Sequence[str] = ()
    params: SceneParams = field(default_factory=SceneParams)

    @property
    def data(self) -> Path:
        """Folder of the data set."""
        return self.output / "data"

    def folder(self, stage: Stage) -> Path:
        """Folder of a stage."""
        return self.output / stage.name

    def config(self, stage: Stage) -> Path:
        """Config file of a stage."""
        return self.root / "configs" / "Demo" / f"{stage.name}.yaml"

    def settings(self, stage: Stage) -> dict[str, Any]:
        """What the config file of a stage and its base files say."""
        settings: dict[str, Any] = CfgNode.load_yaml_with_base(str(self.config(stage)))
        return settings

    def max_iter(self, stage: Stage) -> int:
        """Iterations of a stage."""
        given = dict(zip(self.opts[::2], self.opts[1::2], strict=False))
        return int(given.get("SOLVER.MAX_ITER", self.settings(stage)["SOLVER"]["MAX_ITER"]))

    def fingerprint(self, stage: Stage) -> str:
        """Equal for two runs of a stage that would train the same thing."""
        made_of = [self.settings(stage), list(self.opts), asdict(self.params), SEED]
        made_of += [self.fingerprint(TEACHER)] if stage.taught else []
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def command(self, stage: Stage) -> list[str]:
        """The training of a stage, as a user would start it."""
        coco = [
            [f"digits_{split}", *map(str, split_paths(self.data, split))]
            for split in ("train", "val")
        ]
        options = ["OUTPUT_DIR", str(self.folder(stage)), "DATASETS.COCO", str(coco)]
        options += ["SEED", str(SEED)]
        if stage.taught:
            teacher = self.folder(TEACHER)
            options += ["MODEL.TEACHER.CONFIG", str(teacher / "config.yaml")]
            options += ["MODEL.TEACHER.WEIGHTS", str(teacher / "model_final.pth")]
        train_net = [sys.executable, str(self.root / "tools" / "train_net.py")]
        config = ["--config-file", str(self.config(stage)), "--resume"]
        return [*train_net, *config, *options, *self.opts]


def run_demo(demo: Demo, progress: Progress, runner: Runner | None = None) -> None:
    """Build the data set and train every stage, without what an earlier run has done.

    Raises:
        StageFailed: a training that ended with an error.
        FileExistsError: a folder in the way that the demo did not make.
    """
    build_dataset(demo.data, demo.params)
    for stage in STAGES:
        run_stage(demo, stage, progress, runner or run_subprocess)


def progress_costs(demo: Demo) -> dict[str, float]:
    """About how long each stage takes, by title, in any unit."""
    return {stage.title: stage.cost * demo.max_iter(stage) for stage in STAGES}


def run_stage(demo: Demo, stage: Stage, progress: Progress, runner: Runner) -> None:
    """Train one stage, or what is left of it.

    Raises:
        StageFailed: the training ended with an error, or without its last checkpoint.
        FileExistsError: the stage's folder is in use for something else.
    """
    folder, fingerprint = demo.folder(stage), demo.fingerprint(stage)
    state = read_state(folder)
    if state.get("fingerprint") != fingerprint:
        discard(folder, STATE_FILE)
        state = {"fingerprint": fingerprint, "result": None}
        write_state(folder, state)
    if state["result"] is None:
        train_stage(demo, stage, progress, runner)
        write_state(folder, {**state, "result": stage_result(folder)})
    else:
        progress.start(stage.title, 1.0)
        progress.finish("done before")


def train_stage(demo: Demo, stage: Stage, progress: Progress, runner: Runner) -> None:
    """Run the training of a stage and show how far it is.

    Raises:
        StageFailed: it ended with an error, or without its last checkpoint.
    """
    folder, max_iter = demo.folder(stage), demo.max_iter(stage)
    metrics, log = folder / "metrics.json", folder / "stdout.txt"

    def show() -> None:
        part = iterations_done(metrics, max_iter, time.time()) / max_iter
        progress.update(part, describe_ap(metrics))

    progress.start(stage.title, iterations_done(metrics, max_iter, 0) / max_iter)
    status = runner(demo.command(stage), demo.root, log, show)
    if status != 0 or not (folder / "model_final.pth").exists() or not describe_ap(metrics):
        raise StageFailed(describe_failure(stage, status, log))
    for checkpoint in folder.glob("model_[0-9]*.pth"):  # a training's worth of these is large
        checkpoint.unlink()
    progress.finish(describe_ap(metrics))


def describe_ap(metrics: Path) -> str:
    """The last AP, such as "AP 31.4", or nothing before the first evaluation."""
    found = evaluations(read_metrics(metrics))
    return f"AP {found[-1]['bbox/AP']:.1f}" if found else ""


def describe_failure(stage: Stage, status: int, log: Path) -> str:
    """The last lines of a training's output and where the rest is."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    tail = "\n".join(f"  {line}" for line in lines[-FAILURE_LINES:])
    return f"{stage.title}: the training stopped with status {status}:\n{tail}\nAll of it: {log}"


def stage_result(folder: Path) -> dict[str, float]:
    """What `stage.json` keeps of a finished stage: its last AP and the detector's parameters."""
    final = evaluations(read_metrics(folder / "metrics.json"))[-1]
    return {"AP": final["bbox/AP"], "parameters": count_parameters(folder / "model_final.pth")}


def count_parameters(checkpoint: Path) -> int:
    """Parameters of the detector in a checkpoint, without the distiller's and without buffers."""
    import torch  # seconds, needed once a stage

    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(
        tensor.numel()
        for name, tensor in weights.items()
        if not name.startswith("distiller.") and not name.endswith(buffers)
    )


def read_state(folder: Path) -> dict[str, Any]:
    """What `stage.json` says, empty where there is none."""
    file = folder / STATE_FILE
    state: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return state


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `stage.json` in one step: it is never there half written."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{STATE_FILE}.unfinished"
    unfinished.write_text(json.dumps(state, indent=2))
    unfinished.replace(folder / STATE_FILE)


def clear(demo: Demo) -> None:
    """Remove what a demo has made, and nothing else that lies in its folder.

    Raises:
        FileExistsError: a folder of its names that it did not make.
    """
    discard(demo.data, RECORD_FILE)
    for stage in STAGES:
        discard(demo.folder(stage), STATE_FILE)


@contextlib.contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keep a second demo out of a folder; the claim ends with this process, however it ends.

    Raises:
        BlockingIOError: another demo is running there.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def run_subprocess(
    command: Sequence[str], folder: Path, log: Path, tick: Callable[[], None]
) -> int:
    """The `Runner` of real life; when this process is stopped, so is the command."""
    with log.open("a") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent(),
        )
        try:
            while process.poll() is None:
                tick()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
        finally:
            process.terminate()
            process.wait()
    return process.returncode


def _end_with_parent() -> Callable[[], None] | None:
    """On Linux, have the system end the child with us, be it by ``kill -9``.

    A training left behind would write into the same folder as the one that takes over.
    """
    if sys.platform != "linux":
        return None
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG in <sys/prctl.h>
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(set_parent_death_signal, signal.SIGTERM)
