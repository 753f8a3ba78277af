"""What everything else stands on: errors, files, settings, names."""
