"""Who asks: the ways to authenticate, behind one small contract (see contract.py)."""
