"""The decoder server: takes compressed frames and side information, decodes, serves pictures."""
