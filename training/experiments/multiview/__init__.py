"""Beyond one side view of RGB (the paper's outlook): views of another kind, and two views at the decoder.

x is the left frame. Every side view has a network of its own in the decoder (`FamilyConfig.side_channels`); the
encoder sees x alone, so all codes of one data set send the same number of bits.

    stereo  the right frame in colour, in grey, at half size, as edges; and the last two together
    drive   synthetic: the right camera now, the left camera 0.1 s earlier, both, and the right one beside an
            unrelated frame, which tells a second view's worth from that of a larger network
"""
