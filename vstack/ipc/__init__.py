"""How the stack's processes on one host are started and talk: event loop, local calls, children."""
