"""Gradient compression for distributed training: the server knows one worker's gradient and decodes another's.

classifier   the MNIST classifier of 412 parameters, many runs at once
trajectories training runs: gradients to fit the codes on, and curves to compare compressors by
baselines    random-k, top-k, QSGD and norm-proportional sampling at equal bits
figures      the table and the plots
"""
