"""Somebody else's ClientApp, served: its nodes say who they are, and answer."""
