"""Durable work: queue, leases, journal, worker, reconciler; one story per module."""
