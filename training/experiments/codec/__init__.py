"""What makes the codec: each part left out in turn, and the paper's way in its place, on validation pairs.

variants    what is trained: the codec with all its parts, and without each
trained     training one variant; its latent prior, learned with it or afterwards
pairs       what they are trained and measured on
paper       the paper's own network at the same cost, one code for each rate
measured    real bytes and PSNR of a trained variant
figures     the table and the plot
"""
