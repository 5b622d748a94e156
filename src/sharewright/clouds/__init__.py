"""Clouds: contracts for compute, volumes and networks, and their implementations."""
