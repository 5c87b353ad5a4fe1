"""What annotate decides by: the structure of a graph, and what a recipe selects."""
