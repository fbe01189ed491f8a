"""Would Slepian-Wolf coding of the indices pay? H(Z|Y) against H(Z), and the price of a finite length.

network    a probability model of the indices that sees y too, on top of the codec's own
lengths    what a code for one frame needs beyond the entropy
"""
