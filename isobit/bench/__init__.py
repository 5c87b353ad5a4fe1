"""How long one inference takes: artifacts, float models, and what other tools make of those, in turns."""
