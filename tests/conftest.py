"""Settings of every test.

Hypothesis stops an example that takes long by default; on a loaded machine that says nothing about the code.
"""

from hypothesis import settings

settings.register_profile("isobit", deadline=None)
settings.load_profile("isobit")
