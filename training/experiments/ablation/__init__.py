"""Figure 5: what the decoder makes of the right, a wrong and a random side information.

sides    the kinds of y, and a test set with each
codes    what is ablated: the paper's trained codes, and released bundles on real bytes
figures  the plot, and the picture of the synthetic scene
"""
