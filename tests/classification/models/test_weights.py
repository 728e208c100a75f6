"""Checkpoints load whole, from every form that is around, and never run code."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from classification.models import build_model, load_weights


def network(name: str = "resnet8", num_classes: int = 100) -> Any:
    return build_model(name, num_classes)


def random_state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        name: torch.randn_like(value) if value.is_floating_point() else torch.tensor(3)
        for name, value in network().state_dict().items()
    }


def saved(checkpoint: Any, folder: Path, **options: Any) -> Path:
    path = folder / "checkpoint.pth"
    torch.save(checkpoint, path, **options)
    return path


def assert_loaded(model: Any, state: dict[str, Tensor]) -> None:
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def with_module_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in state.items()}


def beside_distiller(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "distiller.transform.blocks.0.weight": torch.zeros(3)}


FORMS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "bare": lambda state: state,
    "model": lambda state: {"epoch": 240, "model": state, "optimizer": {"state": {}}},
    "state_dict": lambda state: {"state_dict": state},
    "module": with_module_prefix,
    "model, module": lambda state: {"model": with_module_prefix(state)},
    "own run": lambda state: {"model": beside_distiller(state), "iteration": 9},
    "own run, module": lambda state: {"model": with_module_prefix(beside_distiller(state))},
    "numpy accuracy": lambda state: {
        "model": state,
        "best_acc": np.float64(71.5),
        "accuracy": np.float32(1.0),
        "epoch": np.int64(240),
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zip_file", [True, False])
def test_every_form_loads(form: str, zip_file: bool, tmp_path: Path) -> None:
    state, model = random_state(), network()
    path = saved(FORMS[form](state), tmp_path, _use_new_zipfile_serialization=zip_file)
    load_weights(model, path)
    assert_loaded(model, state)


@pytest.mark.parametrize("home", ["numpy.core", "numpy._core"])
def test_a_numpy_number_loads_whatever_numpy_wrote_it(home: str, tmp_path: Path) -> None:
    checkpoint = {"model": random_state(), "best_acc": np.float64(71.5)}
    path = saved(checkpoint, tmp_path, _use_new_zipfile_serialization=False)
    # The pickle names the module of numpy's function, which numpy 2 has moved.
    content, found = re.subn(
        rb"numpy\._?core\.multiarray\n", f"{home}.multiarray\n".encode(), path.read_bytes()
    )
    assert found == 1
    path.write_bytes(content)
    model = network()
    load_weights(model, path)
    assert_loaded(model, random_state())


def test_build_model_loads_a_file(tmp_path: Path) -> None:
    path = saved(random_state(), tmp_path)
    assert_loaded(build_model("resnet8", weights=str(path)), random_state())


def test_another_depth_is_refused_with_the_first_names(tmp_path: Path) -> None:
    path = saved(network("resnet14").state_dict(), tmp_path)
    # 3 more blocks of 12 entries
    with pytest.raises(
        ValueError,
        match="checkpoint.pth: .* ResNet; unexpected: layer1.1.conv1.weight, .* 33 more$",
    ):
        load_weights(network(), path)
    path = saved(network().state_dict(), tmp_path)
    with pytest.raises(ValueError, match="missing: layer1.1.conv1.weight, .* 33 more$"):
        load_weights(network("resnet14"), path)


def test_another_number_of_classes_is_refused_with_both_shapes(tmp_path: Path) -> None:
    path = saved(network().state_dict(), tmp_path)
    model = network(num_classes=10)
    before = model.fc.weight.clone()
    with pytest.raises(
        ValueError,
        match=r"wrong shape: fc.weight \(100, 64\) \(expected \(10, 64\)\), fc.bias \(100,\)",
    ):
        load_weights(model, path)
    assert torch.equal(model.fc.weight, before)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.pth: there is no such checkpoint"):
        load_weights(network(), tmp_path / "nowhere.pth")


def test_a_file_that_could_run_code_is_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Touch:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    path = saved({"model": random_state(), "opt": Touch()}, tmp_path)
    with pytest.raises(ValueError, match="checkpoint.pth: refused, holds more than weights"):
        load_weights(network(), path)
    assert not ran.exists()


@pytest.mark.parametrize("content", [b"a page that says 404", b"PK\x03\x04 cut short"])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint.pth: .* checkpoint"):
        load_weights(network(), path)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ([1, 2], "holds a list, expected a checkpoint"),
        ({}, "holds nothing for a model, expected its weights by name"),
        ({"net": {"fc.bias": torch.zeros(3)}}, "holds a dict for 'net', expected weights"),
        ({"model": {"fc.bias": 1.0}}, "holds a float for 'fc.bias', expected weights"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(
    checkpoint: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"checkpoint.pth: {message}"):
        load_weights(network(), saved(checkpoint, tmp_path))
