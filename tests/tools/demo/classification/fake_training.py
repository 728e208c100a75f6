"""A stand-in for `tools/train_classifier.py`: leaves the files of a training, trains nothing."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from classification.engine import load_config
from classification.models import build_model

TOP1 = {"teacher": 98.0, "student_baseline": 70.0, "student_fam_kd": 86.0}


class FakeTraining:
    """A `Runner` that notes the commands it is given."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    @property
    def stages(self) -> list[str]:
        """The stages that were run, in order."""
        return [Path(options(command)["OUTPUT_DIR"]).name for command in self.commands]

    def __call__(
        self, command: Sequence[str], folder: Path, log: Path, tick: Callable[[], None]
    ) -> int:
        self.commands.append(list(command))
        pairs = options(command)
        output = Path(pairs.pop("OUTPUT_DIR"))
        # What the tool does with its arguments, up to the training.
        cfg = load_config(
            command[command.index("--config-file") + 1],
            [word for pair in pairs.items() for word in pair],
        )
        write_checkpoint(output, cfg.MODEL.STUDENT.NAME)
        write_metrics(output, cfg.SOLVER.MAX_ITER)
        tick()
        return 0


def options(command: Sequence[str]) -> dict[str, str]:
    pairs = command[list(command).index("--resume") + 1 :]
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def write_checkpoint(folder: Path, name: str) -> None:
    """Weights that say 7 to every image, and a distiller's."""
    network = build_model(name, 10)
    weights = network.state_dict()
    classifier_bias = next(key for key in reversed(weights) if key.endswith("bias"))
    assert weights[classifier_bias].shape == (10,)
    for value in weights.values():
        value.zero_()
    weights[classifier_bias][7] = 1.0
    weights["distiller.b.weight"] = torch.zeros(1000)
    torch.save({"model": weights, "iteration": 1}, folder / "model_final.pth")


def write_metrics(folder: Path, iterations: int) -> None:
    """Lines as Detectron2 writes them."""
    final = TOP1[folder.name]
    seconds = 1.0 if folder.name == "student_fam_kd" else 0.5
    lines = [{"iteration": i, "time": seconds} for i in range(24, iterations, 25)]
    for iteration, top1 in ((24, final / 2), (49, final / 1.5), (iterations, final)):
        lines.append({"iteration": iteration, "accuracy/top1": top1, "accuracy/top5": 99.0})
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
