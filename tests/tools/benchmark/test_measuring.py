"""The clock, the memory count and the rows of the benchmark, on work of a known size."""

import time

import pytest
import torch

from tools.benchmark import measuring
from tools.benchmark.measuring import Case, exponents, measure, peak_memory, table, time_pairs


def test_peak_memory_is_the_largest_sum_that_is_held_at_once() -> None:
    def run() -> None:
        a = torch.empty(1000)  # 4,000 bytes
        b = torch.empty(2000)
        del a
        torch.empty(500)  # 8,000 + 2,000 bytes are held, less than the 12,000 before
        del b

    assert peak_memory(run) == 12_000


def test_memory_that_was_there_before_does_not_count() -> None:
    x = torch.zeros(10_000, requires_grad=True)
    # the product, the gradient that comes back (expanded from a scalar, so not held), x.grad
    peak = peak_memory(lambda: (x * 2.0).sum().backward())
    assert 40_000 <= peak <= 2 * 40_000 + 100


def test_pairs_alternate_and_their_number_keeps_to_its_bounds() -> None:
    calls = ""

    def project() -> None:
        nonlocal calls
        calls += "p"

    def reference() -> None:
        nonlocal calls
        calls += "r"

    times = time_pairs(project, reference, seconds=0.0, pairs=(4, 9), warmup=1)
    assert calls == "pr" + "prrp" * 2
    assert len(times) == 4
    calls = ""
    time_pairs(project, reference, seconds=60.0, pairs=(1, 3), warmup=0)
    assert calls == "prrppr"


def test_a_row_says_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Linear(3, 2)
    complex_module = torch.nn.ParameterList([torch.zeros(5, dtype=torch.complex64)])
    case = Case(
        name="sleep",
        project=lambda: time.sleep(0.001),
        reference=lambda: torch.empty(2**18),
        modules=(module, complex_module),
        time_goal=0.5,
    )
    times = [(1.0, 2.0), (10.0, 40.0), (3.0, 4.0)]
    monkeypatch.setattr(measuring, "time_pairs", lambda *ways, **bounds: times)
    row = measure(case, "cpu")
    # pair by pair: of 0.5, 0.25 and 0.75
    assert (row["ratio"], row["quartiles"]) == (0.5, (0.375, 0.625))
    assert (row["project_ms"], row["reference_ms"], row["pairs"]) == (3000.0, 4000.0, 3)
    assert (row["project_mib"], row["reference_mib"], row["memory_ratio"]) == (0.0, 1.0, 0.0)
    assert (row["project_parameters"], row["reference_parameters"]) == (8, 10)
    assert "sleep" in table([row]) and "0.375 to 0.625" in table([row])


def test_exponents_are_those_of_a_power_law() -> None:
    grown = [{"ratio": x**1.5, "memory_ratio": x, "growth": ("area", x)} for x in (2.0, 4.0, 9.0)]
    assert exponents(grown) == ["time grows with area^1.50, memory with area^1.00"]
