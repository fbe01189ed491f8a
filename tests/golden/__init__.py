"""A reader written from proto/SPEC.md alone, to see that the text says what the codec does."""
