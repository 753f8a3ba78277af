"""Many runs side by side: sweeps and comparisons."""
