"""What is trained and how: networks, training loops, devices."""
