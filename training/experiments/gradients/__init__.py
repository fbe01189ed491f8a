"""Gradient compression for distributed training: the server knows one worker's gradient and decodes another's.

digits        MNIST, or shapes made here
classifier    the classifier of 412 parameters, many runs at once
trajectories  training runs of two workers and a server
codes         fitting `training.gradients.GradientCode` on gradients of past runs, and using it in new ones
baselines     random-k, top-k, QSGD and norm-proportional sampling, their bits counted
comparison    whole training runs seed by seed, and gradients that no code has seen
figures       the table and the plots
"""
