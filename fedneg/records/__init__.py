"""The folder of a federation that lives on: log, requests, receipts, keys."""
