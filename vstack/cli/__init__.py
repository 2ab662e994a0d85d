"""The program `vstack`."""
