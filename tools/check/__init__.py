"""Checks of artifacts beyond what a build proves."""
