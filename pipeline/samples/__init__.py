"""Batches of images and arrays, and what enters a model."""
