"""What is compared, measured and judged."""
