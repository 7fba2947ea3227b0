"""Plugins that are broken, each in its own way. The package itself can be imported."""
