"""The command line: thin callers of library functions, one renderer for text and JSON."""
