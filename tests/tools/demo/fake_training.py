"""A stand-in for `tools/train_net.py`: leaves the files of a training, trains nothing."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

AP = {"teacher": 60.0, "student_baseline": 30.0, "student_fam": 36.0}


class FakeTraining:
    """A `Runner` that notes the commands it is given; ends with `status` for the stage `fails`."""

    def __init__(self, fails: str = "", status: int = 1) -> None:
        self.fails = fails
        self.status = status
        self.commands: list[list[str]] = []

    @property
    def stages(self) -> list[str]:
        """The stages that were run, in order."""
        return [output_folder(command).name for command in self.commands]

    def __call__(
        self, command: Sequence[str], folder: Path, log: Path, tick: Callable[[], None]
    ) -> int:
        self.commands.append(list(command))
        output = output_folder(command)
        log.write_text("first line\nthe reason\n")
        if output.name == self.fails:
            (output / "last_checkpoint").write_text("model_0000019.pth")
            write_metrics(output, 20, [])
            tick()
            return self.status
        write_training(output)
        tick()
        return 0


def output_folder(command: Sequence[str]) -> Path:
    return Path(command[command.index("OUTPUT_DIR") + 1])


def write_training(folder: Path) -> None:
    """What a finished run of 100 iterations leaves: the first image's first digit is found."""
    final = AP[folder.name]
    write_metrics(folder, 100, [(39, final / 3), (79, final / 2), (100, final)])
    weights = {"a.weight": torch.zeros(3, 4), "a.running_mean": torch.zeros(3)}
    weights["distiller.b.weight"] = torch.zeros(1000)
    for name in ("model_0000049.pth", "model_final.pth"):
        torch.save({"model": weights}, folder / name)
    (folder / "inference").mkdir()
    found = {"image_id": 1, "category_id": 4, "bbox": [20.0, 30.0, 25.5, 40.5], "score": 0.9}
    unsure = {**found, "score": 0.4}
    results = json.dumps([unsure, found])
    (folder / "inference" / "coco_instances_results.json").write_text(results)


def write_metrics(folder: Path, iterations: int, evaluated: list[tuple[int, float]]) -> None:
    """Lines as Detectron2 writes them."""
    lines = [{"iteration": i, "time": 0.5} for i in range(19, iterations, 20)]
    for iteration, ap in evaluated:
        aps = {f"bbox/{name}": ap for name in ("AP", "AP50", "AP75", "APs", "APm")}
        lines.append({"iteration": iteration, **aps, "bbox/APl": float("nan")})
    with (folder / "metrics.json").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
