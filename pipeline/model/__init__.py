"""From a user's file to a network, read without trust."""
