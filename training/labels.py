"""Labels: the indices of a codebook renumbered so that like ones lie together and share the high digit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.indices import IndexGrids


def _split_in_order(features: npt.NDArray[np.float64]) -> list[int]:
    """Rows of [K, F], like ones together: halves along the first principal axis, and so on in each half."""
    order: list[int] = []

    def split(rows: npt.NDArray[np.int64]) -> None:
        if len(rows) == 1:
            order.append(int(rows[0]))
            return
        centred = features[rows] - features[rows].mean(0)
        axis = np.linalg.svd(centred, full_matrices=False)[2][0]
        by_axis = rows[np.argsort(centred @ axis, kind="stable")]
        half = len(rows) // 2
        split(by_axis[:half])
        split(by_axis[half:])

    split(np.arange(len(features)))
    return order


def label_order(grids: Sequence[npt.NDArray[np.uint16]], codebook_sizes: Sequence[int]) -> list[list[int]]:
    """The indices of each stage in the order of their labels, so that like ones share the high digit.

    Two indices are alike when they have the same neighbours: the first stage's index at the four positions around
    and, for later stages, at the position itself.
    """
    orders = []
    for s, size in enumerate(codebook_sizes):
        counts = np.zeros((size, codebook_sizes[0]))
        for grid in grids:
            first, own = grid[0].astype(np.int64), grid[s].astype(np.int64)
            near = [(own[:, 1:], first[:, :-1]), (own[:, :-1], first[:, 1:])]
            near += [(own[1:], first[:-1]), (own[:-1], first[1:])]
            if s:
                near.append((own, first))
            for centre, beside in near:
                counts += np.bincount(
                    (centre * codebook_sizes[0] + beside).ravel(), minlength=counts.size
                ).reshape(counts.shape)
        # Square roots of shares: Euclidean distance then is the Hellinger distance.
        orders.append(_split_in_order(np.sqrt((counts + 0.1) / (counts + 0.1).sum(1, keepdims=True))))
    return orders


def relabelled(grids: IndexGrids, order: Sequence[Sequence[int]]) -> IndexGrids:
    """The same grids with labels for indices."""
    labels = []
    for of_stage in order:
        label = np.empty(len(of_stage), np.uint16)
        label[np.array(of_stage)] = np.arange(len(of_stage))
        labels.append(label)
    return IndexGrids(
        tuple(np.stack([label[z] for label, z in zip(labels, grid, strict=True)]) for grid in grids.grids)
    )
