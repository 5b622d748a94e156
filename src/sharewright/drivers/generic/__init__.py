"""The generic driver: block volumes become file systems, file systems become exports."""
