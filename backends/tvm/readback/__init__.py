"""TVM modules read again, with no code of what writes them, and compared with what the reference says."""
