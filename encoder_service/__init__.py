"""The camera node: frames of a source, compressed alone and streamed to a decoder; or side information as seen."""
