"""Stand-in repositories that a newcomer, and the tests, can start."""
