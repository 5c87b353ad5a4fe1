"""Integer arithmetic without floating point, and networks written down in it: what TVM modules and plain C compute."""
