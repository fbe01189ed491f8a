"""The paper's experiments, one recipe each: `python -m training.experiments.NAME`.

    stereo      Figure 3: rate and distortion of the three families, with and without the latent prior
    sources     Figure 4: side information at both ends, at the decoder, at neither
    ablation    Figure 5: the right, a wrong and a random side information
    binary      the binary source (DISCUS)
    gradients   gradient compression for distributed training
    bound       Proposition 1 on a Gaussian model
    cost        parameters, operations and times
    multiview   two side views, and side views of another kind

and of the codec here:

    codec         the same without each of its parts, and the paper's network at its cost
    one_rate      what one model for many rates costs
    slepian_wolf  what coding the indices given y could save

Each leaves a folder: results.json, table.csv, plots. `--smoke` runs the same code in seconds.
"""
