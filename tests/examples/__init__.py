"""Networks and cases that several tests share."""
