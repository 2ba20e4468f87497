"""Training framework for JEPA video world models. Importing the package imports nothing else."""

__version__ = "0.1.0"
