"""What all tests share."""

import pytest

pytest_plugins = ["lading.testing.guardian", "lading.testing.transport_counts"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with tests that ask for a long time-out come first: begun last, each would keep one process busy alone at the end."""
    longest: dict[str, float] = {}
    for item in items:
        asked = item.get_closest_marker("timeout")
        module = item.nodeid.partition("::")[0]
        longest[module] = max(longest.get(module, 0.0), float(asked.args[0]) if asked and asked.args else 0.0)
    items.sort(key=lambda item: -longest[item.nodeid.partition("::")[0]])
