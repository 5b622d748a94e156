"""A cloud in a file, for API, scale and crash tests and for client authors. Never a stand-in in a claim."""

from sharewright.clouds.simulated.cloud import SimulatedCloud

__all__ = ["SimulatedCloud"]
