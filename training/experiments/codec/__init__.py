"""What makes the codec: one part left out at a time, everything else the same, on validation pairs.

variants    what is trained: the codec as it is released, and without each part
trained     training one variant; its latent prior, learned with it or afterwards
measured    real bytes and PSNR of a trained variant
figures     the table and the plot
"""
