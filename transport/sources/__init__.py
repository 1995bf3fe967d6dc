"""Deciding that an acquisition is complete."""
