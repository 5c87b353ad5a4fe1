"""Facts: what a page tells about an artifact beyond its manifest and its proof, measured while it is built."""
