"""Recipes: what they hold, how they are found, read, edited and explained, and what mixed precision chose."""
