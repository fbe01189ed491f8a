"""The paper's own networks and prior; `training.model` is what this project ships.

convolutional  stereo and image halves: three families, 8x, 4x and 2x, in three modes
dense          the binary source and gradients
prior          the latent prior: a causal transformer over the raster of indices
fitting        one training loop for all of them
"""
