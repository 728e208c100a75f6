"""A demo's trainings, each a run of a tool as a user would start it, resumed where it was stopped.

A stage's folder holds what Detectron2 writes, ``stdout.txt``, and ``stage.json``: what the stage
was made of (a fingerprint of its settings) and, once it is finished, its result. A finished stage
is skipped; a stage of other settings is made anew.
"""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from fvcore.common.config import CfgNode

from fam_det.analysis.processes import end_with_parent
from fam_det.training.metrics import iterations_done, read_metrics
from tools.demo.progress import Progress, evaluations
from tools.demo.scenes import discard

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
        name: of its folder.
        title: for people.
        cost: about how long an iteration takes, relative to the other stages.
        config: its file in the demo's folder of configs; empty: its name.
        teacher: the stage it is distilled from.
    """

    name: str
    title: str
    cost: float
    config: str = ""
    teacher: "Stage | None" = None


class StageFailed(RuntimeError):
    """A training ended with an error; the message holds its last lines and where the rest is."""


@dataclass
class Demo(ABC):
    """Where a demo runs and what it is made of; a subclass says which trainings.

    Args:
        root: of the repository: its tools and configs.
        output: folder that receives everything.
        opts: KEY VALUE pairs for the configs of all stages, as the tool takes them.
    """

    root: Path
    output: Path
    opts: Sequence[str] = ()

    stages: ClassVar[tuple[Stage, ...]]
    """A teacher, a student alone, and the same student taught; in the order they run in."""
    tool: ClassVar[str]
    """In the folder of tools: what trains a stage."""
    configs: ClassVar[str]
    """Folder of the config files in the folder of configs."""
    scores: ClassVar[Mapping[str, str]]
    """The table's scores, and their names in ``metrics.json``; the first is the demo's metric."""

    @abstractmethod
    def options(self, stage: Stage) -> list[str]:
        """KEY VALUE pairs for one stage: its data and its teacher."""

    def prepare(self) -> None:  # noqa: B027
        """Make what the trainings need."""

    def remove_prepared(self) -> None:  # noqa: B027
        """Remove what `prepare` made.

        Raises:
            FileExistsError: a folder of that name that it did not make.
        """

    def ingredients(self) -> list[Any]:
        """What all stages depend on beside their configs and `opts`; for JSON."""
        return []

    @property
    def metric(self) -> str:
        """Name of the score that says how good a model is."""
        return next(iter(self.scores))

    def folder(self, stage: Stage) -> Path:
        """Folder of a stage."""
        return self.output / stage.name

    def config(self, stage: Stage) -> Path:
        """Config file of a stage."""
        return self.root / "configs" / self.configs / f"{stage.config or stage.name}.yaml"

    def settings(self, stage: Stage) -> dict[str, Any]:
        """What the config file of a stage and its base files say."""
        settings: dict[str, Any] = CfgNode.load_yaml_with_base(str(self.config(stage)))
        return settings

    def max_iter(self, stage: Stage) -> int:
        """Iterations of a stage.

        Raises:
            ValueError: an impossible value among `opts`.
        """
        given = dict(zip(self.opts[::2], self.opts[1::2], strict=False))
        return int(given.get("SOLVER.MAX_ITER", self.settings(stage)["SOLVER"]["MAX_ITER"]))

    def fingerprint(self, stage: Stage) -> str:
        """Equal for two runs of a stage that would train the same thing."""
        made_of = [self.settings(stage), list(self.opts), *self.ingredients(), SEED]
        made_of += [self.fingerprint(stage.teacher)] if stage.teacher else []
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def command(self, stage: Stage) -> list[str]:
        """The training of a stage, as a user would start it."""
        train = [sys.executable, str(self.root / "tools" / self.tool)]
        config = ["--config-file", str(self.config(stage)), "--resume"]
        options = ["OUTPUT_DIR", str(self.folder(stage)), "SEED", str(SEED)]
        return [*train, *config, *options, *self.options(stage), *self.opts]


def run_demo(demo: Demo, progress: Progress, runner: Runner | None = None) -> None:
    """Train every stage, without what an earlier run has done.

    Raises:
        StageFailed: a training that ended with an error.
        FileExistsError: a folder in the way that the demo did not make.
    """
    demo.prepare()
    for stage in demo.stages:
        run_stage(demo, stage, progress, runner or run_subprocess)


def progress_costs(demo: Demo) -> dict[str, float]:
    """About how long each stage takes, by title, in any unit.

    Raises:
        ValueError: an impossible value among the demo's `opts`.
    """
    return {stage.title: stage.cost * demo.max_iter(stage) for stage in demo.stages}


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
        write_state(folder, {**state, "result": stage_result(demo, folder)})
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
        progress.update(part, describe_score(demo, metrics))

    progress.start(stage.title, iterations_done(metrics, max_iter, 0) / max_iter)
    status = runner(demo.command(stage), demo.root, log, show)
    if (
        status != 0
        or not (folder / "model_final.pth").exists()
        or not describe_score(demo, metrics)
    ):
        raise StageFailed(describe_failure(stage, status, log))
    for checkpoint in folder.glob("model_[0-9]*.pth"):  # a training's worth of these is large
        checkpoint.unlink()
    progress.finish(describe_score(demo, metrics))


def describe_score(demo: Demo, metrics: Path) -> str:
    """The last score, such as "AP 31.4", or nothing before the first evaluation."""
    found = evaluations(read_metrics(metrics), demo.scores[demo.metric])
    return f"{demo.metric} {found[-1][demo.scores[demo.metric]]:.1f}" if found else ""


def describe_failure(stage: Stage, status: int, log: Path) -> str:
    """The last lines of a training's output and where the rest is."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    tail = "\n".join(f"  {line}" for line in lines[-FAILURE_LINES:])
    return f"{stage.title}: the training stopped with status {status}:\n{tail}\nAll of it: {log}"


def stage_result(demo: Demo, folder: Path) -> dict[str, float]:
    """What `stage.json` keeps of a finished stage: its last score and the model's parameters."""
    key = demo.scores[demo.metric]
    final = evaluations(read_metrics(folder / "metrics.json"), key)[-1]
    return {demo.metric: final[key], "parameters": count_parameters(folder / "model_final.pth")}


def count_parameters(checkpoint: Path) -> int:
    """Parameters of the model in a checkpoint, without the distiller's and without buffers."""
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
    demo.remove_prepared()
    for stage in demo.stages:
        discard(demo.folder(stage), STATE_FILE)


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
            preexec_fn=end_with_parent(signal.SIGTERM),
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
