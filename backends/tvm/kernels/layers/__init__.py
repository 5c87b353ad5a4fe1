"""Layers with weights: convolutions, dense and one filter a channel, directly and transformed."""
