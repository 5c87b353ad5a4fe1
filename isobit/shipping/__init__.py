"""From a reference to a folder that is proven and says what was proven."""
