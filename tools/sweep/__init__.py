"""What is measured of `isobit sweep`: that killed drivers and workers lose nothing, and how far it scales."""
