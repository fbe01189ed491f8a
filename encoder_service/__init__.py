"""The camera node: a source's frames, compressed alone and streamed to a decoder, or side information."""
