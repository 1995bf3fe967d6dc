"""The agent on the instrument: the outbox and the loop."""
