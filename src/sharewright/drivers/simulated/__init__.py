"""Share drivers for the simulated cloud only, with capabilities that no real backend of ours has."""
