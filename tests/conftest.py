"""What all tests share."""

pytest_plugins = ["lading.testing.guardian", "lading.testing.transport_counts"]
