"""Looks for what nobody thought of: random networks, damaged files, builds that are stopped or lack something."""
