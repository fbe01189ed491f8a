"""How good a bundle is: rate and distortion on stereo pairs, from real bytes.

    pairs      folders of pairs: DIR/left/NAME is the source, DIR/right/NAME the side information
    protocols  what is done to a frame first: `kitti128` of the literature, or `native`
    metrics    PSNR and MS-SSIM
    evaluate   encode, serialise, decode, measure, for every pair and rate level
    wire       size of a compressed frame as a protobuf message (imported on its own)

Knows no gRPC and no torch.
"""

from ndsc.evaluate.evaluate import Evaluation, ImageResult, RatePoint, SideInformation, evaluate
from ndsc.evaluate.metrics import ms_ssim, ms_ssim_min_side, psnr, psnr_float
from ndsc.evaluate.pairs import PairPaths, PairsError, list_pairs
from ndsc.evaluate.protocols import PROTOCOLS, Protocol, kitti128, native

__all__ = [
    "PROTOCOLS",
    "Evaluation",
    "ImageResult",
    "PairPaths",
    "PairsError",
    "Protocol",
    "RatePoint",
    "SideInformation",
    "evaluate",
    "kitti128",
    "list_pairs",
    "ms_ssim",
    "ms_ssim_min_side",
    "native",
    "psnr",
    "psnr_float",
]
