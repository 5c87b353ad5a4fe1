"""What runs on a device: golden numbers, replay, one-file scripts."""
