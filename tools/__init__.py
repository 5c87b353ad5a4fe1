"""Scripts beside the product."""
