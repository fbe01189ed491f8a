"""Public data sets as (x, y): each loader reads the files as their makers publish them."""
