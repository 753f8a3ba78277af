"""What makes a federation last, whoever trains it: kept, restored, purged, proved."""
