"""The version, for everything below the package's own names."""

__version__ = "0.2.0.dev0"
