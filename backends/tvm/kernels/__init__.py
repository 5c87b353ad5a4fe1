"""What computes: the kernels of a program's steps, and how codes, weights and numbers lie in memory."""
