"""The SQL of the engine."""
