"""Measurements of fedneg and its peers; no part of the package."""
