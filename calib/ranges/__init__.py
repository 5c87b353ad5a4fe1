"""Observers and range searches."""
