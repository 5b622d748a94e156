"""HTTP face: one module per Manila resource, microversions, faults, authentication. No business rule."""
