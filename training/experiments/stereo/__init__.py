"""Figure 3: rate and distortion on stereo pairs, three families, with and without the latent prior.

frames     pairs → views of 128×256, batches, flips
settings   the dials, and the presets `paper` and `cpu`
point      one trained code and its prior: indices, bytes, distortion
published  the paper's own figures
figures    the plots
"""
