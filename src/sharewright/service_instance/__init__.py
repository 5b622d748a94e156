"""Service VMs for any share driver: life cycle, network layouts, health. Knows nothing of any driver."""
