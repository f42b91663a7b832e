"""``pytest --device cuda`` runs the tests of the kernels on a GPU."""

from __future__ import annotations

import gc

import pytest
import torch

from aoq_ext.ops import calls


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the tests of the kernels run: cpu (default), cuda, cuda:1")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only_on(device_type, reason): a test for one type of device")
    config.device = _usable_device(config.getoption("--device"))


def _usable_device(name: str) -> torch.device:
    """Never skipped silently: who asks for a device gets it or is told why not."""
    try:
        device = torch.device(name)
        empty = torch.zeros(1, device=device)
        empty.item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise pytest.UsageError(f"--device {name}: torch {torch.__version__} cannot use it: {reason}") from error
    if not calls.has_kernel(empty):  # the reference would be compared with itself
        raise pytest.UsageError(
            f"--device {name}: this build of aoq_ext has no compiled kernel for {device.type}; `aoq doctor` says why"
        )
    return device


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("only_on")
        if marker and marker.args[0] != config.device.type:
            reason = f"for {marker.args[0]} alone, not {config.device.type}: {marker.kwargs['reason']}"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    gc.freeze()  # thousands of tests, which every collection of garbage would look through


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    return pytestconfig.device
