"""What the server keeps so that it can forget, in memory and on the disk."""
