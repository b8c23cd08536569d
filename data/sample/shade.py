"""Turn surfaces into a picture: VTK says which triangle each pixel shows, the light is worked out here in NumPy.

Points are in the camera frame (x right, y down, z away; dm), colours are linear RGB, 1 being a white wall in full key
light. Shadows come from a depth map seen from the key light, contact shadows from the depth of neighbouring pixels,
and the light that wanders under the skin (red farthest) from a blur of the skin's light in the picture.
"""
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

SHADOW_SIZE, SHADOW_REACH, SHADOW_DEPTH = 448, 2.7, 12.0  # pixels; dm on either side; dm in front of and behind
SCATTER = (0.042, 0.020, 0.012)  # dm that red, green and blue light wander under the skin
KINDS = ("skin", "eye", "hair", "plain", "wet")


@dataclass
class Surface:
    """Triangles (T, 3) between points (N, 3) of the camera frame.

    kind: skin, eye, hair, plain (cloth, frames) or wet (mouth, teeth). data: (N, 3), by kind: the point on the unshaped
    mesh, the place on the eye's picture and 0, or a linear RGB colour. normals: (N, 3), of hair its tangents.
    """

    kind: str
    points: np.ndarray
    triangles: np.ndarray
    data: np.ndarray
    normals: np.ndarray | None = None

    def __post_init__(self):
        if self.normals is None:
            self.normals = vertex_normals(self.points, self.triangles)


@dataclass
class Lights:
    """The light of a scene: three lamps and the light from all around.

    key, fill, rim: (direction towards the lamp (3,) in the camera frame, linear RGB). soft: blur of the key's shadows,
    dm. above, below, left, right: linear RGB of the surroundings. name: a word for it.
    """

    name: str
    key: tuple
    fill: tuple
    rim: tuple
    soft: float
    around: dict

    def ambient(self, normals: np.ndarray) -> np.ndarray:
        """Light (M, 3) from all around on surfaces with these normals."""
        x, y, z = np.clip(normals, -1, 1).T[..., None]
        up, down, left, right = (np.float32(self.around[name]) for name in ("above", "below", "left", "right"))
        front = (left + right) / 2
        sides = np.where(x > 0, right, left)
        vertical = np.where(y < 0, up, down)
        return x * x * sides + y * y * vertical + z * z * np.where(z < 0, front, (left + right) / 2 * 0.9)


def to_linear(colour) -> np.ndarray:
    """Linear 0..1 from sRGB 0..255."""
    return (np.asarray(colour, np.float32) / 255) ** 2.2


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def look_up(image: np.ndarray, columns, rows, outside: float | None = None) -> np.ndarray:
    """Values of an image between its pixels at N places; beyond its edge the edge's, or `outside`."""
    count, side = len(columns), 256  # OpenCV takes no picture with a side above 32767
    padded = np.zeros((2, -(-count // side) * side), np.float32)
    padded[:, :count] = columns, rows
    border = {"borderMode": cv2.BORDER_REPLICATE} if outside is None else {"borderValue": outside}
    found = cv2.remap(image, *padded.reshape(2, -1, side), cv2.INTER_LINEAR, **border) if count else np.zeros((0, 1))
    return found.reshape(-1, *image.shape[2:])[:count]


def vertex_normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Smooth outward normals (N, 3) in the camera frame."""
    a, b, c = (points[triangles[:, i]] for i in range(3))
    of_face = np.cross(b - a, c - a)
    summed = [np.bincount(triangles.ravel(), np.repeat(of_face[:, i], 3), len(points)) for i in range(3)]
    return unit(np.stack(summed, 1))


def join(surfaces: list[Surface]):
    """All surfaces as one: points, triangles, data, normals and each triangle's number in KINDS."""
    starts = np.cumsum([0] + [len(s.points) for s in surfaces])
    return (np.concatenate([s.points for s in surfaces]).astype(np.float32),
            np.concatenate([s.triangles + start for s, start in zip(surfaces, starts[:-1], strict=True)]),
            np.concatenate([s.data for s in surfaces]).astype(np.float32),
            np.concatenate([s.normals for s in surfaces]).astype(np.float32),
            np.concatenate([np.full(len(s.triangles), KINDS.index(s.kind)) for s in surfaces]))


class Rasteriser:
    """One VTK scene of triangles that carry their numbers as colours, looked at by the camera and by the key light."""

    def __init__(self):
        self.mapper, actor, renderer = vtk.vtkPolyDataMapper(), vtk.vtkActor(), vtk.vtkRenderer()
        self.mapper.SetScalarModeToUseCellData()
        actor.SetMapper(self.mapper)
        actor.GetProperty().LightingOff()
        renderer.AddActor(actor)
        self.view, self.window = renderer.GetActiveCamera(), vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(True)
        self.window.SetMultiSamples(0)
        self.window.AddRenderer(renderer)

    def load(self, points: np.ndarray, triangles: np.ndarray) -> None:
        """Replace the scene's triangles."""
        number = np.arange(1, len(triangles) + 1)
        colours = np.stack([number & 255, number >> 8 & 255, number >> 16], 1).astype(np.uint8)
        self.held = np.ascontiguousarray(points * np.float32([1, -1, -1])), triangles.astype(np.int64).ravel(), colours
        corners, cells, mesh = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkPolyData()
        corners.SetData(numpy_to_vtk(self.held[0]))
        cells.SetData(3, numpy_to_vtkIdTypeArray(self.held[1]))
        mesh.SetPoints(corners)
        mesh.SetPolys(cells)
        mesh.GetCellData().SetScalars(numpy_to_vtk(colours))
        self.mapper.SetInputData(mesh)

    def triangle_numbers(self, camera, scale: int) -> np.ndarray:
        """The number of the triangle at each pixel of a picture `scale` times as large, -1 where there is none."""
        width, height, view = camera.width * scale, camera.height * scale, self.view
        self.window.SetSize(width, height)
        view.SetPosition(0, 0, 0)
        view.SetFocalPoint(0, 0, -1)
        view.SetViewUp(0, 1, 0)
        view.SetViewAngle(float(np.degrees(2 * np.arctan(camera.height / 2 / camera.focal))))
        # The principal point leaves the middle of the picture: a crop of a photograph whose middle was the head. Pixel
        # centres are whole numbers, so the picture's edges lie at -0.5 and at width - 0.5.
        off = 2 * (camera.centre + 0.5) / (camera.width, camera.height) - 1
        view.SetWindowCenter(-off[0], off[1])
        view.SetClippingRange(1.0, 80.0)
        self.window.Render()
        pixels = vtk.vtkUnsignedCharArray()
        self.window.GetRGBACharPixelData(0, 0, width - 1, height - 1, 0, pixels)
        pixels = vtk_to_numpy(pixels).reshape(height, width, -1)[::-1, :, :3].astype(np.int32)
        return pixels @ np.array([1, 256, 65536], np.int32) - 1

    def light_depth(self, towards: np.ndarray, middle: np.ndarray):
        """Depth, dm, seen from a far light (SHADOW_SIZE square), and its axes: right, down and away (3, 3)."""
        view, towards = self.view, towards * (1, -1, -1)
        right = unit(np.cross((0, 1, 0), towards))
        up = np.cross(towards, right)
        middle = middle * (1, -1, -1)
        self.window.SetSize(SHADOW_SIZE, SHADOW_SIZE)
        view.SetWindowCenter(0, 0)
        view.ParallelProjectionOn()
        view.SetPosition(*(middle + SHADOW_DEPTH * towards))
        view.SetFocalPoint(*middle)
        view.SetViewUp(*up)
        view.SetParallelScale(SHADOW_REACH)
        view.SetClippingRange(0.01, 2 * SHADOW_DEPTH)
        self.window.Render()
        depth = vtk.vtkFloatArray()
        self.window.GetZbufferData(0, 0, SHADOW_SIZE - 1, SHADOW_SIZE - 1, depth)
        view.ParallelProjectionOff()
        depth = vtk_to_numpy(depth).reshape(SHADOW_SIZE, SHADOW_SIZE)[::-1]
        axes = np.stack([right, -up, -towards]) * (1, -1, -1)
        return depth * (2 * SHADOW_DEPTH - 0.01) + 0.01 - SHADOW_DEPTH, axes


@cache
def rasteriser() -> Rasteriser:
    """The one scene: making a window takes longer than filling it."""
    return Rasteriser()


def blurred_visibility(depth, axes, points, middle, soft: float) -> np.ndarray:
    """How much of the key light reaches points (M, 3), 0..1, by a variance shadow map blurred over `soft` dm."""
    sigma = max(soft * SHADOW_SIZE / (2 * SHADOW_REACH), 0.8)
    mean, square = (cv2.GaussianBlur(d.astype(np.float32), (0, 0), sigma) for d in (depth, depth ** 2))
    x, y, z = ((points - middle) @ axes.T).T.astype(np.float32)
    column, row = ((v / SHADOW_REACH * 0.5 + 0.5) * SHADOW_SIZE - 0.5 for v in (x, y))
    mean, square = (look_up(d, column, row, float(v)) for d, v in ((mean, SHADOW_DEPTH), (square, SHADOW_DEPTH ** 2)))
    behind = z - mean - 0.03
    variance = np.maximum(square - mean ** 2, 0.0008)
    lit = np.where(behind <= 0, 1.0, variance / (variance + behind.clip(0) ** 2))
    return ((lit - 0.25) / 0.75).clip(0, 1)


def contact_light(depth, position, normal, radii: tuple, focal: float) -> np.ndarray:
    """Ambient occlusion in the picture, 0 (closed in) .. 1 (open), (H, W).

    Args:
        depth: (H, W), dm, inf where there is nothing. position, normal: (H, W, 3). radii: dm. focal: pixels.
    """
    total, count = np.zeros(depth.shape, np.float32), 0
    typical = float(np.median(depth[np.isfinite(depth)]))
    for ring, radius in enumerate(radii):
        for angle in np.arange(6) * np.pi / 3 + ring * np.pi / 6:
            reach = radius * focal / typical
            dx, dy = round(reach * np.cos(angle)), round(reach * np.sin(angle))
            shifted = np.roll(position, (-dy, -dx), (0, 1)) - position
            square = np.einsum("hwc,hwc->hw", shifted, shifted) + 1e-6
            toward = np.einsum("hwc,hwc->hw", shifted, normal)
            total += np.nan_to_num((toward / np.sqrt(square) - 0.12).clip(0, 1) / (1 + square / (2.5 * radius) ** 2))
            count += 1
    return (1 - 2.9 * total / count).clip(0.06, 1)


def bumped(normal, position, height, strength: float) -> np.ndarray:
    """Normals (H, W, 3) tilted by a height (H, W), dm, after Mikkelsen (2010), Bump mapping unparametrized surfaces."""
    along_x, along_y = (np.gradient(position, axis=axis) for axis in (1, 0))
    height_x, height_y = (np.gradient(height, axis=axis) for axis in (1, 0))
    first, second = np.cross(along_y, normal), np.cross(normal, along_x)
    area = np.einsum("hwc,hwc->hw", along_x, first)[..., None]
    slope = (first * height_x[..., None] + second * height_y[..., None]) / np.where(np.abs(area) < 1e-9, 1, area)
    length = np.linalg.norm(slope, axis=-1, keepdims=True)
    return unit(normal - strength * slope * np.minimum(1, 0.7 / (strength * length + 1e-9)))


def render_surfaces(surfaces: list[Surface], camera, lights: Lights, scale: int, skin_at, eye_image) -> np.ndarray:
    """Draw surfaces; returns (height, width, 6) float32: linear RGB times coverage, coverage, depth (dm), face skin.

    Args:
        skin_at: function of points (M, 3) of the unshaped mesh to linear RGB (M, 3), height (M,) in dm, gloss (M,) and
            a mask (M,) that is 1 on bare skin. eye_image: (256, 256, 3) linear RGB.
    """
    points, triangles, data, normals, kinds = join(surfaces)
    scene = rasteriser()
    scene.load(points, triangles)
    numbers = scene.triangle_numbers(camera, scale)
    skin_points = surfaces[0].points
    middle = np.array([*np.median(skin_points[:, :2], 0), np.median(skin_points[:, 2])])
    middle[1] = skin_points[:, 1].min() + 1.9
    depth_map, axes = scene.light_depth(lights.key[0], middle)

    # Where on its triangle each pixel lies: the ray through the pixel's centre meets the triangle's plane.
    rows, columns = np.nonzero(numbers >= 0)
    shape, numbers = numbers.shape, numbers[rows, columns]
    ray = np.stack([*((np.stack([columns, rows]) + 0.5) / scale - 0.5 - camera.centre[:, None]) / camera.focal,
                    np.ones(len(rows))], 1).astype(np.float32)
    corner = triangles[numbers]
    a, b, c = (points[corner[:, i]] for i in range(3))
    edge1, edge2 = b - a, c - a
    h, q = np.cross(ray, edge2), np.cross(-a, edge1)
    area = np.einsum("mc,mc->m", edge1, h)
    area = np.where(np.abs(area) < 1e-12, 1e-12, area)
    u = (np.einsum("mc,mc->m", -a, h) / area).clip(0, 1)
    v = np.minimum((np.einsum("mc,mc->m", ray, q) / area).clip(0, 1), 1 - u)
    weights = np.stack([1 - u - v, u, v], 1).astype(np.float32)

    def at_pixels(values: np.ndarray) -> np.ndarray:
        return np.einsum("mk,mkc->mc", weights, values[corner])

    def as_image(values: np.ndarray, empty: float = 0.0) -> np.ndarray:
        image = np.full((*shape, *values.shape[1:]), empty, np.float32)
        image[rows, columns] = values
        return image

    position, normal, datum, kind = at_pixels(points), at_pixels(normals), at_pixels(data), kinds[numbers]
    is_hair, is_eye, is_skin, is_wet = (kind == KINDS.index(name) for name in ("hair", "eye", "skin", "wet"))
    view = -unit(position)
    tangent = unit(normal)
    outward = unit(position - middle - np.array([0, -0.35, 0.2]))  # hair is lit as the round head it covers
    normal = np.where(is_hair[:, None], unit(0.75 * outward + 0.35 * view), tangent)
    away = np.einsum("mc,mc->m", normal, view)
    normal = np.where((away < 0)[:, None] & ~is_skin[:, None], -normal, normal)

    albedo = datum.copy()
    height, gloss, bare = np.zeros(len(rows), np.float32), np.full(len(rows), 0.12, np.float32), np.zeros(len(rows))
    albedo[is_skin], height[is_skin], gloss[is_skin], bare[is_skin] = skin_at(datum[is_skin])
    if is_eye.any():
        place = (datum[is_eye, :2] * 256).astype(np.float32)
        albedo[is_eye] = look_up(eye_image, *place.T)
        gloss[is_eye] = 1.0
    gloss[is_wet] = 0.5

    position_image, normal_image = as_image(position, 1e3), as_image(normal)
    depth_image = as_image(position[:, 2], np.inf)
    focal = camera.focal * scale
    open_sky = contact_light(depth_image, position_image, normal_image, (0.07, 0.22, 0.55), focal)[rows, columns]
    smooth, normal = normal, bumped(normal_image, position_image, as_image(height), 1.0)[rows, columns]

    # A point under the surface is asked for its shadow: pushed out along the normal it does not shade itself.
    shadow_points = position + 0.03 * smooth + 0.02 * lights.key[0]
    visible = blurred_visibility(depth_map, axes, shadow_points, middle, lights.soft)
    open_sky = np.where(is_eye, open_sky ** 0.6 * np.clip(1.0 - 1.8 * (0.42 - datum[:, 1]), 0.4, 1), open_sky)
    ambient = lights.ambient(smooth) * open_sky[:, None]
    irradiance, shine = ambient.copy(), np.zeros_like(albedo)
    skin_like = (bare > 0.5) | is_eye
    power = np.where(is_eye, 260, np.where(is_wet, 60, np.where(bare > 0.5, 18 + 26 * gloss, 8)))
    for number, (towards, colour) in enumerate((lights.key, lights.fill, lights.rim)):
        towards, shade = towards.astype(np.float32), visible if number == 0 else open_sky ** 0.7
        colour = np.float32(colour)
        cosine = normal @ towards
        wrap = np.where(skin_like, 0.12, np.where(is_hair, 0.3, 0.0))
        falling = ((cosine + wrap) / (1 + wrap)).clip(0, 1)
        half = unit(view + towards)
        fresnel = 0.03 + 0.97 * (1 - np.einsum("mc,mc->m", view, half)).clip(0, 1) ** 5
        lobe = np.einsum("mc,mc->m", normal, half).clip(0, 1) ** power * (power + 8) / 25
        irradiance += (falling * shade)[:, None] * colour
        shine += (np.where(is_hair, 0, lobe * fresnel * gloss * (cosine > 0) * shade))[:, None] * colour
        if is_hair.any():  # Kajiya and Kay (1989): strands shine across their direction, white and in their colour
            along, seen = tangent[is_hair] @ towards, np.einsum("mc,mc->m", tangent[is_hair], view[is_hair])
            sines = np.sqrt((1 - along ** 2).clip(0)), np.sqrt((1 - seen ** 2).clip(0))
            spread = (sines[0] * sines[1] - along * seen).clip(0, 1)
            light = (shade[is_hair] * (cosine[is_hair] + 0.35).clip(0, 1))[:, None] * colour
            shine[is_hair] += light * (0.035 * spread[:, None] ** 50 + 0.55 * spread[:, None] ** 14 * albedo[is_hair])
    mirrored = 2 * np.einsum("mc,mc->m", normal, view)[:, None] * normal - view
    grazing = 0.03 + 0.22 * (1 - np.einsum("mc,mc->m", normal, view).clip(0, 1)) ** 4
    shine += (np.where(is_hair, 0, grazing * gloss * open_sky))[:, None] * lights.ambient(mirrored)

    # Light wanders under the skin: its blur, red farthest, counts only the light on skin.
    on_skin, light = as_image((bare > 0.5).astype(np.float32)), as_image(irradiance * (bare > 0.5)[:, None])
    for channel, reach in enumerate(SCATTER):
        sigma = max(reach * focal / middle[2], 0.4)
        spread = cv2.GaussianBlur(light[..., channel], (0, 0), sigma)
        spread /= np.maximum(cv2.GaussianBlur(on_skin, (0, 0), sigma), 1e-3)
        irradiance[:, channel] = np.where(bare > 0.5, spread[rows, columns], irradiance[:, channel])
    colour = albedo * irradiance + shine
    result = as_image(np.concatenate([colour, np.ones((len(rows), 1)), np.zeros((len(rows), 1)), bare[:, None]], 1))
    result[..., 4] = np.where(np.isfinite(depth_image), depth_image, 1e3)
    return result


def shrink(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Average whole blocks: pixel centres stay where they are."""
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
