"""What stands at the end of a network: the operators that decode its answers, and what counts as its predictions."""
