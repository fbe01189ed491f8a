"""Drawing: parallelograms into a z-buffer, then one texture lookup, light and haze for every pixel.

With the camera at the origin, pixel (column, row) looks along d = (X, Y, 1), and a point of the plane of a
parallelogram is P = d / w with w = 1 / depth. There w, and the position (s, t) along the two edges times w,
are linear in X and Y: drawing costs three linear forms for each piece, and the second pass evaluates the
texture position of the piece that won each pixel from the same forms.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndsc.scene.atlas import Atlas
from ndsc.scene.pieces import Shape
from ndsc.scene.styles import Weather
from ndsc.scene.textures import Float

NEAR_M = 0.3
"""Nothing closer to the camera than this is drawn."""

Forms = NDArray[np.float64]


class Pinhole:
    """An ideal camera looking along +z, sampled on a grid of ``width`` by ``height`` points.

    :param focal_px: focal length in samples.
    :param horizon_px: row of the horizon, from the top.
    """

    def __init__(self, width: int, height: int, focal_px: float, horizon_px: float) -> None:
        self.width, self.height, self.focal_px, self.horizon_px = width, height, focal_px, horizon_px
        columns, rows = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
        self.x: Float = ((columns + 0.5 - width / 2) / focal_px).astype(np.float32)
        self.y: Float = ((horizon_px - rows - 0.5) / focal_px).astype(np.float32)


class _Faces:
    """The pieces that may be visible from one camera, with their linear forms over (X, Y, 1)."""

    def __init__(
        self, pieces: NDArray[np.float64], camera: Pinhole, weather: Weather, sun: NDArray[np.float64]
    ) -> None:
        origin, right, up = pieces[:, 0:3], pieces[:, 3:6], pieces[:, 6:9]
        normal = np.cross(right, up)
        facing = np.einsum("ij,ij->i", normal, origin)
        shape = pieces[:, 17].astype(np.int64)
        seen = np.abs(facing) > 1e-9
        seen &= (facing > 0) | (pieces[:, 18] == 0)
        boxes = _bounding_boxes(pieces, camera)
        seen &= ((boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3])) | (shape == Shape.SKY)
        keep = np.flatnonzero(seen)
        # Near things first: what they cover is then rejected by the depth test. The sky is number 0.
        order = np.argsort(np.where(shape[keep] == Shape.SKY, -np.inf, origin[keep, 2]), kind="stable")
        keep = keep[order]
        pieces, origin, right, up = pieces[keep], origin[keep], right[keep], up[keep]
        normal, facing = normal[keep], facing[keep]
        self.boxes, self.shape = boxes[keep], shape[keep]
        self.material = pieces[:, 9].astype(np.int32)
        self.w = normal / facing[:, None]
        along_right, along_up = np.cross(up, normal), np.cross(normal, right)
        along_right /= np.einsum("ij,ij->i", along_right, right)[:, None]
        along_up /= np.einsum("ij,ij->i", along_up, up)[:, None]
        self.s = along_right - np.einsum("ij,ij->i", along_right, origin)[:, None] * self.w
        self.t = along_up - np.einsum("ij,ij->i", along_up, origin)[:, None] * self.w
        self.u = pieces[:, 10:11] * self.w + pieces[:, 12:13] * self.s
        self.v = pieces[:, 11:12] * self.w + pieces[:, 13:14] * self.t
        outward = -normal / np.linalg.norm(normal, axis=1)[:, None]
        toward_sun = np.clip(outward @ sun, 0, None)
        toward_sun[pieces[:, 18] == 0] = 0.45
        toward_sun[pieces[:, 19] == 1] = 0.62
        sky_seen = np.where(pieces[:, 19] == 1, 1.0, 0.78 + 0.22 * outward[:, 1])
        light = (
            np.asarray(weather.ambient) * sky_seen[:, None] + np.asarray(weather.sun) * toward_sun[:, None]
        )
        tinted = light * pieces[:, 14:17]
        cutout = self.shape == Shape.CUTOUT
        # Final colour = texture * (plain + alpha * extra); a cutout's alpha is coverage, so it is all plain.
        self.plain = np.where(cutout[:, None], tinted, light).astype(np.float32)
        self.extra = np.where(cutout[:, None], 0, tinted - light).astype(np.float32)


def _bounding_boxes(pieces: NDArray[np.float64], camera: Pinhole) -> NDArray[np.int64]:
    """First and last-plus-one column and row that each piece may touch, int64 [count, 4]; empty if none."""
    origin, right, up = pieces[:, 0:3], pieces[:, 3:6], pieces[:, 6:9]
    corners = np.stack([origin, origin + right, origin + right + up, origin + up], axis=1)
    following = np.roll(corners, -1, axis=1)
    rise = following[..., 2] - corners[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (NEAR_M - corners[..., 2]) / rise
        crossing = corners + share[..., None] * (following - corners)
        points = np.concatenate([corners, crossing], axis=1)
        valid = np.concatenate([corners[..., 2] >= NEAR_M, (share > 0) & (share < 1)], axis=1)
        depth = np.where(valid, points[..., 2], 1.0)
        depth[:, 4:][valid[:, 4:]] = NEAR_M
        column = np.where(valid, points[..., 0], 0.0) / depth * camera.focal_px + camera.width / 2 - 0.5
        row = camera.horizon_px - np.where(valid, points[..., 1], 0.0) / depth * camera.focal_px - 0.5
    big = 1e9

    def low(values: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
        edge: NDArray[np.float64] = np.where(valid, values, big).min(axis=1)
        return np.clip(np.ceil(edge - 1e-6), 0, limit)

    def high(values: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
        edge: NDArray[np.float64] = np.where(valid, values, -big).max(axis=1)
        edge = np.floor(edge + 1e-6) + 1
        return np.clip(edge, 0, limit)

    box = [
        low(column, camera.width),
        high(column, camera.width),
        low(row, camera.height),
        high(row, camera.height),
    ]
    return np.stack(box, axis=1).astype(np.int64)


def _log2(values: Float) -> NDArray[np.int32]:
    """The rounded binary logarithm of positive values, int32, read from the floating-point exponent."""
    bits: NDArray[np.int32] = (values * np.float32(2**0.5)).view(np.int32) >> 23
    bits -= 127
    return bits


def _halved(values: Float, times: NDArray[np.int32]) -> Float:
    """``values * 2.0 ** -times``, with the power built as a floating-point exponent."""
    power: Float = ((127 - times) << 23).view(np.float32)
    return values * power


class Canvas:
    """One view being drawn: a depth buffer and the number of the face that won each sample."""

    def __init__(
        self,
        camera: Pinhole,
        atlas: Atlas,
        weather: Weather,
        sun: NDArray[np.float64],
        pieces: NDArray[np.float64],
    ) -> None:
        """
        :param pieces: float64 [count, FIELDS], origins relative to the camera; exactly one is the sky.
        """
        self._camera, self._atlas, self._weather = camera, atlas, weather
        self._faces = _Faces(pieces, camera, weather, sun)
        shape = (camera.height, camera.width)
        sky = self._form(self._faces.w[0].tolist(), slice(0, camera.height), slice(0, camera.width))
        self._depth: Float = np.maximum(np.broadcast_to(sky, shape), np.float32(1e-6))
        self._number = np.zeros(shape, np.int32)
        self._light: Float = np.ones(shape, np.float32)
        self._draw()
        self._cast_shadows()

    def _form(self, form: list[float], rows: slice, columns: slice) -> Float:
        """A linear form on part of the view, broadcastable to it: one row or column where it is constant."""
        x, y = self._camera.x[None, columns], self._camera.y[rows, None]
        value: Float
        if form[0] == form[1] == 0:
            value = np.full((1, 1), form[2], np.float32)
        elif form[1] == 0:
            value = x * form[0] + form[2]
        elif form[0] == 0:
            value = y * form[1] + form[2]
        else:
            value = (x * form[0] + form[2]) + y * form[1]
        return value

    def _draw(self) -> None:
        faces, farthest = self._faces, np.float32(1 / NEAR_M)
        forms = zip(faces.w.tolist(), faces.s.tolist(), faces.t.tolist(), strict=True)
        solid, cutout, gable = int(Shape.BOX_SHADOW), int(Shape.CUTOUT), int(Shape.GABLE)
        todo = zip(range(len(faces.shape)), faces.shape.tolist(), faces.boxes.tolist(), forms, strict=True)
        for index, shape, (left, right, top, bottom), (w_form, s_form, t_form) in todo:
            if index == 0 or shape >= solid:
                continue
            rows, columns = slice(top, bottom), slice(left, right)
            depth = self._depth[rows, columns]
            w = self._form(w_form, rows, columns)
            wins: NDArray[np.bool_] = w > depth
            if not wins.any():
                continue
            wins &= w < farthest
            # An upright rectangle that faces the camera squarely fills its bounding box.
            square = w_form[0] == w_form[1] == s_form[1] == t_form[0] == 0
            if shape == cutout:
                if square:
                    wins &= self._opaque_square(index, rows, columns)
                else:
                    wins &= self._opaque(index, rows, columns, w)
            if not square or shape == gable:
                s, t = self._form(s_form, rows, columns), self._form(t_form, rows, columns)
                wins &= (s >= 0) & (s <= w)
                wins &= t >= 0
                wins &= np.abs(2 * s - w) <= w - t if shape == gable else t <= w
            np.copyto(depth, w, where=wins)
            np.copyto(self._number[rows, columns], index, where=wins)

    def _opaque_square(self, index: int, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """What :meth:`_opaque` gives, for a face seen squarely: one depth, one copy, a grid."""
        faces, atlas = self._faces, self._atlas
        z = 1 / float(faces.w[index, 2])
        (ux, _, u1), (_, vy, v1) = faces.u[index].tolist(), faces.v[index].tolist()
        material = int(faces.material[index])
        log_width, log_height = int(atlas.log2_width[material]), int(atlas.log2_height[material])

        def halvings(slope: float, most: int) -> int:
            step = abs(slope) * z / self._camera.focal_px + 1e-6
            return min(max(round(math.log2(step)), 0), most)

        i, j = halvings(ux, log_width), halvings(vy, log_height)
        width, height = 1 << (log_width - i), 1 << (log_height - j)
        base = int(atlas.offsets[material, i, j])
        picture: NDArray[np.bool_] = atlas.opaque[base : base + width * height].reshape(height, width)
        column = np.floor((self._camera.x[columns] * ux + u1) * (z / 2**i)).astype(np.int32) & (width - 1)
        row = np.floor((self._camera.y[rows] * vy + v1) * (z / 2**j)).astype(np.int32) & (height - 1)
        opaque: NDArray[np.bool_] = picture[row][:, column]
        return opaque

    def _opaque(self, index: int, rows: slice, columns: slice, w: Float) -> NDArray[np.bool_]:
        """Where the texture of a cutout covers the samples, broadcastable to that part of the view."""
        faces, atlas = self._faces, self._atlas
        wx, wy, _ = faces.w[index].tolist()
        # Samples of the bounding box that look past the plane have w <= 0; they never win.
        z = 1 / np.maximum(w, np.float32(1e-4))
        scale = z * np.float32(1 / self._camera.focal_px)

        def locate(form: list[float]) -> tuple[Any, Any]:
            position = self._form(form, rows, columns) * z
            step = np.maximum(np.abs(form[0] - position * wx), np.abs(form[1] - position * wy)) * scale
            return position, step + np.float32(1e-6)

        (u, across), (v, along) = locate(faces.u[index].tolist()), locate(faces.v[index].tolist())
        material = int(faces.material[index])
        log_width, log_height = int(atlas.log2_width[material]), int(atlas.log2_height[material])
        i = np.minimum(np.maximum(_log2(across), 0), log_width)
        j = np.minimum(np.maximum(_log2(along), 0), log_height)
        base = atlas.offsets[material][i, j]
        column = np.floor(_halved(u, i)).astype(np.int32) & ((1 << (log_width - i)) - 1)
        row = np.floor(_halved(v, j)).astype(np.int32) & ((1 << (log_height - j)) - 1)
        opaque: NDArray[np.bool_] = np.take(atlas.opaque, base + (row << (log_width - i)) + column)
        return opaque

    def _cast_shadows(self) -> None:
        faces = self._faces
        takes = (faces.shape == Shape.GROUND)[self._number]
        dark = self._weather.shadow
        for index in np.flatnonzero(faces.shape >= Shape.BOX_SHADOW).tolist():
            left, right, top, bottom = faces.boxes[index].tolist()
            rows, columns = slice(top, bottom), slice(left, right)
            ground = takes[rows, columns]
            if not ground.any():
                continue
            w, s, t = (
                self._form(form[index].tolist(), rows, columns) for form in (faces.w, faces.s, faces.t)
            )
            light = self._light[rows, columns]
            if faces.shape[index] == Shape.BOX_SHADOW:
                ground = ground & (s >= 0) & (s <= w) & (t >= 0) & (t <= w)
                np.minimum(light, np.float32(1 - dark), out=light, where=ground)
            else:
                r, u = 2 * s / w - 1, 2 * t / w - 1
                cover = np.clip((1 - r * r - u * u) * np.float32(1.8), 0, 1)
                np.minimum(light, 1 - np.float32(max(dark, 0.3)) * cover, out=light, where=ground)

    def _sample(self, number: NDArray[np.int32], w: Float) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """The filtered texture at every sample: (red + blue << 16, green + alpha << 16), each 0 to 65280.

        The copy of the texture is chosen, separately across and up, so that a texel is about one sample wide;
        the four texels around the position are then blended with weights in sixteenths.
        """
        faces, atlas, camera = self._faces, self._atlas, self._camera
        shape = number.shape
        x, y = camera.x[None, :], camera.y[:, None]

        def each(table: NDArray[np.float32]) -> Float:
            return np.take(table, number, mode="clip")

        (ux, uy, u1), (vx, vy, v1), (wx, wy, _) = (
            form.astype(np.float32).T.copy() for form in (faces.u, faces.v, faces.w)
        )
        z = 1 / w
        scale = z * np.float32(1 / camera.focal_px)
        gx, gy = each(wx), each(wy)

        def locate(fx: Float, fy: Float, f1: Float) -> tuple[Any, Any]:
            """Texture coordinate, and how far it moves from one sample to the next."""
            px, py = each(fx), each(fy)
            position = (px * x + py * y + each(f1)) * z
            px -= position * gx
            py -= position * gy
            step = np.maximum(np.abs(px), np.abs(py)) * scale
            return position, step + np.float32(1e-6)

        material = np.take(faces.material, number, mode="clip")

        def level(step: Float, sides: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
            """How often the copy is halved, and the logarithm of its side."""
            side = np.take(sides, material, mode="clip")
            halvings = np.minimum(np.maximum(_log2(step), 0), side)
            return halvings, side - halvings

        def split(
            position: Float, halvings: NDArray[np.int32]
        ) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
            """First texel and the weight of the next one in sixteenths."""
            sixteenths = np.floor(_halved(position, halvings) * 16 - np.float32(7.5)).astype(np.int32)
            return sixteenths >> 4, (sixteenths & 15).astype(np.uint32)

        (u, du), (v, dv) = locate(ux, uy, u1), locate(vx, vy, v1)
        (i, log_width), (j, log_height) = level(du, atlas.log2_width), level(dv, atlas.log2_height)
        levels = np.int32(atlas.offsets.shape[1])
        base = np.take(atlas.offsets.reshape(-1), (material * levels + i) * levels + j, mode="clip")
        (u0, fu), (v0, fv) = split(u, i), split(v, j)
        u_mask, v_mask = (np.int32(1) << log_width) - 1, (np.int32(1) << log_height) - 1
        low, high = base + ((v0 & v_mask) << log_width), base + (((v0 + 1) & v_mask) << log_width)
        left, right = u0 & u_mask, (u0 + 1) & u_mask
        red_blue, green_alpha = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
        even = np.uint32(0x00FF00FF)
        corners = [(low + left, (16 - fu) * (16 - fv)), (low + right, fu * (16 - fv))]
        corners += [(high + left, (16 - fu) * fv), (high + right, fu * fv)]
        for texel, weight in corners:
            packed = np.take(atlas.texels, texel, mode="clip")
            red_blue += (packed & even) * weight
            packed >>= 8
            packed &= even
            packed *= weight
            green_alpha += packed
        return red_blue, green_alpha

    def shade(self) -> Float:
        """The finished view: display values about [0, 1], float32 [3, height, width]."""
        faces, weather = self._faces, self._weather
        number = self._number
        red_blue, green_alpha = self._sample(number, self._depth)
        unit = np.float32(1 / (255 * 256))
        low = np.uint32(0xFFFF)
        alpha = (green_alpha >> 16).astype(np.float32) * unit
        channels = (red_blue & low, green_alpha & low, red_blue >> 16)
        haze = np.exp(np.float32(-weather.haze_per_m) / self._depth)
        lit = self._light * haze
        lit *= unit
        colour = np.empty((3, *number.shape), np.float32)
        for channel in range(3):
            tint = np.take(np.ascontiguousarray(faces.extra[:, channel]), number, mode="clip")
            tint *= alpha
            tint += np.take(np.ascontiguousarray(faces.plain[:, channel]), number, mode="clip")
            tint *= channels[channel]
            tint *= lit
            tint += np.float32(weather.sky_horizon[channel]) * (1 - haze)
            colour[channel] = tint
        self._paint_sky(colour, channels[0].astype(np.float32) * unit, channels[1].astype(np.float32) * unit)
        return colour

    def _paint_sky(self, colour: Float, cover: Float, light: Float) -> None:
        """Puts the sky's gradient and clouds of the given cover and brightness where nothing was drawn."""
        bottom = int(np.searchsorted(-self._camera.y, 0)) + 1
        open_sky = self._number[:bottom] == 0
        height = np.clip(self._camera.y[:bottom], 0, 1)[:, None]
        fade = 1 - (1 - np.minimum(height * np.float32(1.5), 1)) ** 2
        cover, light = cover[:bottom] * np.minimum(height * 6, 1), light[:bottom]
        weather = self._weather
        for channel in range(3):
            top, horizon = weather.sky_top[channel], weather.sky_horizon[channel]
            blue = np.float32(horizon) + np.float32(top - horizon) * fade
            sky = blue + (np.float32(weather.cloud[channel]) * light - blue) * cover
            np.copyto(colour[channel, :bottom], sky, where=open_sky)


def to_bytes(picture: Float, supersample: int, gain: NDArray[np.float64], noise: Float) -> NDArray[np.uint8]:
    """Averages ``supersample`` squared samples to one pixel, then applies exposure, noise and rounding.

    :param picture: float32 [3, height * supersample, width * supersample], display values.
    :param gain: float64 [3], one factor for each colour.
    :param noise: float32 [3, height, width] in grey levels.
    :return: uint8 [height, width, 3].
    """
    total = picture[:, ::supersample].copy()
    for row in range(1, supersample):
        total += picture[:, row::supersample]
    pixels = total[..., ::supersample].copy()
    for column in range(1, supersample):
        pixels += total[..., column::supersample]
    pixels *= (gain.astype(np.float32) * np.float32(255 / supersample**2))[:, None, None]
    pixels += noise
    return np.ascontiguousarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8).transpose(1, 2, 0))
