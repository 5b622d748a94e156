"""Sharewright: every tenant its own NFS and SMB file servers, from virtual machines and block volumes."""

__version__ = "0.1.0"
