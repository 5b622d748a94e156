"""Prometheus metrics: what the database says about the whole deployment, and the endpoint that serves all of them."""
