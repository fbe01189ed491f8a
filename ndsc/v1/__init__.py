"""Generated from proto/ndsc/v1 by proto/generate.py: never edited."""
