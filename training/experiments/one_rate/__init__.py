"""What one model for many rates costs: the released codec against itself trained on for one of its rates alone.

level      a checkpoint of many rates as one of a single rate
"""
