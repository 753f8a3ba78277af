"""Data sets, how they are split among clients, and what an attacker does to them."""
