"""One report of how good the codec is, beside ordinary codecs and published curves: `python -m training.report`.

measurement  one picture, coded once: bytes and distortion; and tables of them
measure      bundles and ordinary codecs on the same pictures, every figure from real bytes
codecs       JPEG, WebP, AVIF, HEIC (x265 intra), JPEG 2000, JPEG XL through their libraries
video        x264 and x265, low delay
lpips        LPIPS, where a package with its weights is installed
bd_rate      Bjøntegaard's rate difference of two curves, with intervals over pictures
comparison   which curves are compared, and the rule of the x265 anchor
plots, page  what people look at
"""
