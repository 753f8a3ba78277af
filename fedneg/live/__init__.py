"""A federation that lives on: requests to be forgotten, receipts, and their proof."""
