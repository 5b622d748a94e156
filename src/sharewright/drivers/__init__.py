"""The share-driver contract and the drivers."""
