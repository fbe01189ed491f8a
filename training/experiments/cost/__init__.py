"""Parameters, multiplications and times of encoders, decoders and priors on one frame of 128x256, ours and others.

counting   parameters and multiply-accumulates (MAC) of torch modules and ONNX graphs
systems    what is counted: the paper's families and the bundle of this project
published  the layers of other systems, from their public repositories
"""
