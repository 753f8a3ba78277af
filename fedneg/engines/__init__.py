"""What runs the clients: this process, worker processes, Ray, or real nodes."""
