"""A page that opens offline, and figures for it."""
