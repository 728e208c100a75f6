"""Checkpoint files: hostile ones run nothing, damaged ones are named, good ones come out whole."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fam_det.files.checkpoint_file import check_weights, is_whole, read_pickle, read_torch


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, protocol: int
) -> None:
    file, mark = tmp_path / "a.pkl", tmp_path / "mark"
    weights = {"model": {"w": np.ones(3), "x": Hostile(mark)}, "__author__": "x"}
    file.write_bytes(pickle.dumps(weights, protocol))
    with pytest.raises(ValueError, match=r"a\.pkl: refused, holds more than weights .*system"):
        read_pickle(file)
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, zipped: bool
) -> None:
    file, mark = tmp_path / "a.pth", tmp_path / "mark"
    torch.save({"model": Hostile(mark)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"a\.pth: refused, holds more than weights") as error:
        read_torch(file)
    assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_arrays_comes_out_as_it_went_in(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "a.pkl"
    arrays = {
        "float": np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "int": np.arange(4),
        "scalar": np.float64(0.25),
        "text": "BGR",
        "list": [1, (2, 3), None],
    }
    file.write_bytes(pickle.dumps({"model": arrays}, protocol))
    read = read_pickle(file)["model"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.asarray(read[name], object), np.asarray(array, object))


def test_a_pickle_of_python_2_and_numpy_1_is_read(tmp_path: Path) -> None:
    """As the zoo's files: protocol 2 with bytes as text, under NumPy 1's names."""
    made = pickle.dumps({"w": np.arange(3, dtype=np.float32)}, 2)
    old = made.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != made or b"numpy.core" in made
    file = tmp_path / "a.pkl"
    file.write_bytes(old)
    np.testing.assert_array_equal(read_pickle(file)["w"], np.arange(3, dtype=np.float32))


def pickle_of(*parts: bytes) -> bytes:
    """A pickle of ``{"a": ...}``, of instructions."""
    return b"\x80\x02}X\x01\x00\x00\x00a" + b"".join(parts) + b"s."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n"
GREEDY = {
    "an array of objects": pickle_of(
        ARRAY, b"cnumpy\nndarray\n(I300000000\ntX\x01\x00\x00\x00O\x87R"
    ),
    "the class of arrays": pickle_of(b"cnumpy\nndarray\n((I300000000\ntX\x01\x00\x00\x00OtR"),
    "a record": pickle_of(b"cnumpy\ndtype\nX\x0b\x00\x00\x00V2000000000\x85R"),
    "a deep key": b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.",
    "a deep set": b"\x80\x04\x8f()" + b"\x85" * 100_000 + b"\x90.",
    "many bytes": b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b".",
    "another codec": pickle_of(b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R"),
    "a state": pickle_of(ARRAY, b"}X\x01\x00\x00\x00bK\x01sb"),
    "an object": b"\x80\x02" + ARRAY + b")\x81.",
}


@pytest.mark.parametrize("kind", GREEDY)
def test_a_pickle_that_asks_for_much_memory_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.pkl"
    file.write_bytes(GREEDY[kind])
    with pytest.raises(ValueError, match=r"a\.pkl: (damaged|refused)"):
        read_pickle(file)


def test_a_place_far_out_in_the_memo_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.pkl"
    file.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")  # 64 GB in the unpickler written in C
    assert read_pickle(file) == {}


def test_weights_are_tensors_or_numbers_by_name() -> None:
    check_weights("a.pth", {"w": torch.ones(1), "v": np.ones(1, np.float32)})
    wrong: list[Any] = [3, {}, {"x": "y"}, {3: torch.ones(1)}, {"w": np.array([None])}]
    for weights in wrong:
        with pytest.raises(ValueError, match=r"a\.pth: holds .*, expected (its )?weights"):
            check_weights("a.pth", weights)


def test_truncated_files_are_named(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.rand(1000)}}, tmp_path / "a.pth")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.random.rand(1000)}))
    for name, read in (("a.pth", read_torch), ("a.pkl", read_pickle)):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=f"{name}: (damaged|is empty)") as error:
                read(tmp_path / name)
            assert "\n" not in str(error.value)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match=r"text\.pth: damaged, or not a checkpoint"):
        read_torch(tmp_path / "text.pth")
    with pytest.raises(ValueError, match=r"list\.pkl: holds a list, expected a checkpoint"):
        read_pickle(tmp_path / "list.pkl")
    with pytest.raises(ValueError, match=r"gone\.pth: there is no such checkpoint"):
        read_torch(tmp_path / "gone.pth")


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save({"model": {"w": torch.zeros(10_000)}}, file)
    assert is_whole(file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # among the weights
    file.write_bytes(content)
    read_torch(file)  # PyTorch does not notice
    assert not is_whole(file)
    assert not is_whole(tmp_path / "gone.pth")
