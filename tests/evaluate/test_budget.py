"""Which system is chosen within a budget, and what is said where none is."""

import pytest

from qindex.evaluate.budget import Budget
from qindex.evaluate.report import Row

ROWS = [
    Row("exact", "flat", 1.0, 1536, interval=(1.0, 1.0), latency_ms=4.0),
    Row("half", "flat", 1.0, 768, interval=(0.998, 1.0), latency_ms=2.0),
    Row("byte", "flat", 0.99, 388, interval=(0.98, 1.0), latency_ms=1.0),
    Row("listed", "ivf", 0.95, 393, interval=(0.94, 0.96), latency_ms=0.1),
    Row("bits", "flat", 0.8, 50, interval=(0.78, 0.82), latency_ms=0.5),
]


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (Budget(recall=0.9), "byte"),  # the fewest bytes
        (Budget(recall=0.9, latency_ms=0.2), "listed"),
        (Budget(recall=0.9, bytes_per_vector=400), "listed"),  # the lowest latency
        (Budget(recall=0.9, bytes_per_vector=390), "byte"),
        (Budget(bytes_per_vector=390), "byte"),  # the highest score
        (Budget(latency_ms=0.6), "listed"),
        (Budget(latency_ms=9), "half"),  # of equal ones, the fewest bytes
        (Budget(recall=0.98, bytes_per_vector=800, latency_ms=2), "byte"),
        (Budget(recall=1), "exact"),
    ],
)
def test_the_choice_is_within_the_bounds_and_best_in_the_rest(budget: Budget, name: str) -> None:
    found = budget.choose(ROWS)
    assert found is not None
    assert found.name == name
    assert budget.unmet(ROWS, "recall@10") == ""


def test_a_recall_that_only_the_mean_reaches_is_not_kept() -> None:
    found = Budget(recall=0.99).choose(ROWS)
    assert found is not None
    assert found.name == "half"


def test_without_a_budget_nothing_is_chosen_and_nothing_is_unmet() -> None:
    assert Budget().choose(ROWS) is None
    assert Budget().unmet(ROWS, "recall@10") == ""


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (
            Budget(recall=0.98, bytes_per_vector=60),
            "no system has recall@10 of at least 0.98 within 60 bytes: "
            "bits has at least 0.7800, 0.8000 in the mean; byte takes 388 bytes",
        ),
        (Budget(bytes_per_vector=10), "no system is within 10 bytes: bits takes 50 bytes"),
        (
            Budget(bytes_per_vector=60, latency_ms=0.2),
            "no system is within 60 bytes and 0.2 ms: listed takes 393 bytes; bits takes 0.5 ms",
        ),
        # Latency is what stands in the way, so the others are not named.
        (
            Budget(recall=0.7, bytes_per_vector=60, latency_ms=0.2),
            "no system has recall@10 of at least 0.7 within 60 bytes and 0.2 ms: "
            "listed takes 393 bytes; bits takes 0.5 ms",
        ),
        # And here each two do.
        (
            Budget(recall=0.98, bytes_per_vector=10, latency_ms=0.01),
            "no system has recall@10 of at least 0.98 within 10 bytes and 0.01 ms: "
            "exact has at least 1.0000, 1.0000 in the mean; bits takes 50 bytes; listed takes 0.1 ms",
        ),
    ],
)
def test_a_budget_that_nothing_meets_says_what_stands_in_the_way(budget: Budget, said: str) -> None:
    assert budget.choose(ROWS) is None
    assert budget.unmet(ROWS, "recall@10") == said


@pytest.mark.parametrize("name", ["recall", "bytes_per_vector", "latency_ms"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_bounds_that_are_none_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        Budget(**{name: value})


def test_a_recall_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recall must be a share in \(0, 1\]"):
        Budget(recall=95)
