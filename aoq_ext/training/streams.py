"""Randomness as a pure function of the run's seed and a place in the run.

Nothing here remembers what was drawn before, so a run that starts again in the middle draws what it would have drawn.
"""

from __future__ import annotations

import numpy as np

# Every use of randomness has a stream of its own, so that changing one (another objective) leaves the others alone.
ORDER, CAPTIONS, OFFLINE, MODULES, READERS, HARD_BATCHES = range(6)


def generator(seed: int, stream: int, *place: int) -> np.random.Generator:
    return np.random.default_rng((seed, stream, *place))


def torch_seed(seed: int, place: int, *part: int) -> int:
    """A seed for what the modules themselves draw (dropout) at step ``place``, in one part of it.

    The first part of everything draws what a step without parts does.
    """
    while part and part[-1] == 0:
        part = part[:-1]
    return int(generator(seed, MODULES, place, *part).integers(2**63 - 1))


def reader_seed(seed: int, *place: int) -> int:
    """A seed for what a data set draws itself when its rows are read (step, part, rank)."""
    return int(generator(seed, READERS, *place).integers(2**63 - 1))


def sampler_seed(seed: int) -> int:
    """The seed of the offline draws, which `OfflineNegativeSampler` makes a function of the step itself."""
    return int(generator(seed, OFFLINE, 0).integers(2**63 - 1))


def hard_batches_seed(seed: int) -> int:
    """Likewise of `HardNegativeBatchSampler`."""
    return int(generator(seed, HARD_BATCHES, 0).integers(2**63 - 1))
