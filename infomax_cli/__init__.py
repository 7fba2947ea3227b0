"""infomax: learn representations of speech and images by maximizing mutual information."""

__version__ = "0.1.0"
