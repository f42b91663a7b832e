"""A slice of the fuzz run; `make fuzz` runs all of it."""

from tests import fuzz


def test_random_cases(device):
    wrong = {seed: message for seed in range(100_000, 100_300) if (message := fuzz.check_case(seed, device))}
    assert not wrong
