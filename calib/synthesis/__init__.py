"""Images made from the network itself."""
