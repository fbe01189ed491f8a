"""Proposition 1 on models small enough to know the truth: how far the bounds lie below log p(x | y).

gaussian   y → x ← z, all linear and Gaussian: every term in closed form, and encoders trained on the objective
codebook   a VQ-VAE of one index: the same objective is its loss
"""
