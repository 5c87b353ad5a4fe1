"""Pages: artifacts as self-contained HTML for people, drawn from their folders alone."""
