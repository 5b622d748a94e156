"""A cloud in memory, for API, scale and crash tests and for client authors. Never a stand-in in a claim."""
