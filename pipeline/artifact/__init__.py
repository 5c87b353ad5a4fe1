"""The folder that is shipped, and what it says about itself."""
