"""Methods see data and never edit the graph."""
