"""Measured figures in README and docs: by which code they were measured, and whether that is the present one."""
