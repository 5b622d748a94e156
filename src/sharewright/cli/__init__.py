"""The sharewright command."""
