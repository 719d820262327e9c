"""What is said of speed: turns, ratios within rounds, exponents, peak memory."""

import statistics
import sys

import pytest
import torch

from benchmarks.turns import Figures, Turns, exponent, matrix_peak, peak_memory, table, take_turns


def test_each_runs_once_a_round_and_the_order_turns_around():
    ran: list[str] = []
    runs = {name: lambda name=name: ran.append(name) for name in "abc"}
    turns = take_turns(runs, 3, warmup=1, least=0.0)
    assert "".join(ran) == "abc" + "abc" + "cba" + "abc"
    assert all(len(seconds) == 3 for seconds in turns.seconds.values())


def test_what_is_fast_is_repeated_and_told_of_one_run():
    count = 0

    def run() -> None:
        nonlocal count
        count += 1
        sum(range(10_000))  # some 100 us

    turns = take_turns({"a": run}, 2, warmup=1, least=0.01)
    assert count > 1 + 2 * 3  # in each of the two rounds, after a warm-up, more than three times
    assert turns["a"].median < 0.005


def test_a_ratio_is_taken_within_its_round():
    """The machine is ten times slower in the second round, which says nothing about the two."""
    turns = Turns({"ours": [1.0, 10.0, 1.0], "theirs": [2.0, 20.0, 2.0]})
    assert turns.ratio("theirs", "ours") == (2.0, 2.0, 2.0)
    assert turns.ratio("ours", "ours") == (1.0, 1.0, 1.0)
    assert turns.fastest(["theirs", "ours"]) == "ours"
    assert turns.to_dict()["theirs"]["rounds"] == [2.0, 20.0, 2.0]


def test_figures_are_the_quartiles():
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    assert Figures.of(values) == pytest.approx((median, low, high))
    assert Figures.of([2.0, 1.0]).told(1) == "1.5 (1.2 to 1.8)"


@pytest.mark.parametrize("p", [0.0, 1.0, 1.5, 2.0])
def test_exponents(p: float):
    sizes = [3.0, 10.0, 50.0]
    assert exponent(sizes, [7 * s**p for s in sizes]) == pytest.approx(p, abs=1e-9)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its peak")
def test_peak_memory_is_what_a_run_takes_for_a_moment():
    for mebibytes in (64, 128):
        peak = peak_memory(lambda n=mebibytes: torch.ones(n << 18).sum())
        assert peak is not None and mebibytes - 2 < peak / 2**20 < mebibytes + 16
    small = peak_memory(lambda: None)
    assert small is not None and small < 8 << 20


def test_the_peak_counts_its_operations():
    run, flops = matrix_peak(side=64)
    run()
    assert flops == 2 * 64**3


def test_table():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
