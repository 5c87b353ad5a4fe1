"""Passes edit the graph and never see data."""
