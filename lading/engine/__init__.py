"""The server: delivery tables, admission, jobs, and the supervisor."""
