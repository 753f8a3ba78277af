"""What a model knows of a client, and the verdict on it."""
