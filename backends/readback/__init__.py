"""What stands in an artifact's files, in words of no target, and how that is compared with what must stand there."""
