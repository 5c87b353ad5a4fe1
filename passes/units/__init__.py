"""Where blocks are found in graphs whose modules do not show them."""
