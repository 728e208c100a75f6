"""Losses and gradients that are not finite."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from classification.data import Batch
from fam_det.training.non_finite import StepTrainer, image_names
from tests.training.small_training import Batches, Model, trainer


def test_an_iteration_whose_loss_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path, broken=(2, 4), max_non_finite=2)
    run.train(0, 7)
    # By hand: the same batches without the two.
    model = Model()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number, batch in zip(range(7), Batches(), strict=False):
        if number not in (2, 4):
            optimiser.zero_grad()
            model(batch)["loss"].backward()
            optimiser.step()
    for name, value in model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value), name
    assert run.state_dict()["passed_over"] == 2
    lines = [json.loads(x) for x in (tmp_path / "non_finite.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 4]
    (process,) = lines[0]["processes"]
    assert process["losses"] == "loss nan"
    assert process["images"][1] == {"file_name": "2_1.png"}


def test_one_too_many_ends_the_training_and_a_resumed_run_counts_on(tmp_path: Path) -> None:
    run = trainer(tmp_path, broken=(0, 2), max_non_finite=1)
    with pytest.raises(FloatingPointError, match=r"iteration 2: .*MAX_NON_FINITE allows 1 such"):
        run.train(0, 5)
    again = trainer(tmp_path, broken=(3,), max_non_finite=1)
    again.data_loader.start_iter = 3
    again.load_state_dict({**again.state_dict(), "passed_over": 1})
    with pytest.raises(FloatingPointError, match="non_finite.json"):
        again.train(3, 5)


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(tmp_path: Path) -> None:
    class Root(torch.nn.Module):
        """The square root of a weight that is 0: a loss of 0, a gradient of infinity."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

        def forward(self, batch: object) -> dict[str, torch.Tensor]:
            return {"loss": self.weight.sqrt().sum()}

    model = Root()
    run = StepTrainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=0.1))
    run.folder, run.max_non_finite = str(tmp_path), 5
    run.train(0, 3)
    assert model.weight.tolist() == [0.0, 0.0]
    lines = [json.loads(x) for x in (tmp_path / "non_finite.json").read_text().splitlines()]
    assert lines[0]["processes"][0]["losses"] == "loss 0, its gradient is not finite"
    assert len(lines) == 3


def test_images_of_a_classifier_are_named_by_their_position() -> None:
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.tensor([1, 0]), torch.tensor([7, 3]))
    assert image_names(batch) == [7, 3]


def test_running_counts_of_positive_anchors_are_put_back(tmp_path: Path) -> None:
    class Dense(Model):
        def _ema_update(self) -> None:
            self.loss_normalizer = vars(self).get("loss_normalizer", 100.0) * 0.9

        def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            self._ema_update()
            return super().forward(batch)

    run = trainer(tmp_path, broken=(0, 2), max_non_finite=2, model=Dense())
    run.train(0, 1)
    assert not hasattr(run.model, "loss_normalizer")
    run.train(1, 4)
    assert run.model.loss_normalizer == 100.0 * 0.9 * 0.9
