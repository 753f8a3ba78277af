"""The results and the report of one run."""
