"""Forms in which files hold a network beside the plain ones: packed, of other programs, for one batch size."""
