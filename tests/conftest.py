"""Options of the whole suite: `--bless` writes goldens, `--slow` also runs what takes minutes."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--bless", action="store_true", help="write goldens instead of comparing")
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture
def bless(request) -> bool:
    """Whether goldens are to be written."""
    return request.config.getoption("--bless")
