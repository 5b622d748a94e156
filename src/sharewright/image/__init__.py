"""The service image: recipe, build, and a checker for any image."""
