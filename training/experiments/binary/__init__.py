"""The binary source (DISCUS): x is n = 648 fair bits, y is x through a BSC(p), 162 bits are sent for each x.

A code whose 162 bits are of no use can still answer x̂ = y; that is "ignore the message". The recipe measures block
error rates of

    802.11n LDPC   syndromes of a sparse matrix and belief propagation: the baseline
    paper          the paper's fully connected VQ-VAE, joint and distributed, on its own loss
    logits         the same with an output that the message can change
    phase          a neural code with a periodic encoder, both ends learned by gradient descent

beside that line, what the paper publishes and two bounds: `python -m training.experiments.binary`.
"""
