"""Random numbers by seed and place."""

import random

import numpy as np
import torch

from fam_det.data.seeding import derive_seed, seed_cpu, seeded
from fam_det.training.reproducibility import RunSeed


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seeds_of_different_places_and_purposes_differ() -> None:
    seeds = [
        derive_seed(seed, purpose, *place)
        for seed in (0, 1)
        for purpose in ("order", "augmentation")
        for place in ((0, 0), (0, 1), (1, 0))
    ]
    assert len(set(seeds)) == len(seeds)


def test_what_is_drawn_inside_depends_on_the_seed_alone_and_disturbs_nothing_outside() -> None:
    seed_cpu(2**63 + 5)
    expected = [draw(), draw()]
    seed_cpu(2**63 + 5)
    outside = [draw()]
    with seeded(8):
        inside = draw()
    outside.append(draw())
    assert outside == expected
    with seeded(8):
        assert draw() == inside
    with seeded(9):
        assert draw() != inside


def test_a_resumed_run_and_its_loader_take_the_checkpoint_s_seed() -> None:
    class Loader:
        seed = 3

    loader = Loader()
    run = RunSeed(loader, 7)
    assert run.state_dict() == {"seed": 3}
    run.load_state_dict({"seed": 11})
    assert (run.seed, loader.seed) == (11, 11)
    assert RunSeed(object(), 7).seed == 7
