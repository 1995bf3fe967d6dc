"""What all tests share."""

pytest_plugins = ["lading.testing.transport_counts"]
