"""Timing and size."""
