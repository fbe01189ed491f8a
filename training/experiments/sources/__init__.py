"""Joint, distributed and separate codes (paper, Figure 4): what does the encoder lose by not seeing y?

x is the upper half of a picture and y the lower one. Three codes of one network, one start and one sequence of
batches for each seed: y at both ends, at the decoder, at neither.
"""
