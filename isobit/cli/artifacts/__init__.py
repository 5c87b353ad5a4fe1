"""Commands about artifacts that stand, and what a build tells them."""
