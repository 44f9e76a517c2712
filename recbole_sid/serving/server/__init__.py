"""The HTTP server: ``recbole-sid serve BUNDLE``; its packages are the extra ``serve``."""
