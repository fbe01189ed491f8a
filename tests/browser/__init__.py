"""The viewer's page in a real Chromium: `make browser`."""
