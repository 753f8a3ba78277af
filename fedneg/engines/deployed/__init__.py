"""A federation of real clients: certificates, and SuperLink and SuperNodes started."""
