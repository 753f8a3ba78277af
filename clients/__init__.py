"""Flower NumPyClients: one file for each role."""
