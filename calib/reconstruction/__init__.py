"""The reconstruction engine, its objectives and roundings."""
