"""The built-in synthetic stereo drive: an endless street seen by a rectified pair of cameras. Numpy only.

scene = StereoScene(SceneConfig(seed=3))
left, right = scene.pair(time_s=1.5)  # uint8 [128, 256, 3] each
"""

from ndsc.scene.stereo import SceneConfig, StereoScene, View

__all__ = ["SceneConfig", "StereoScene", "View"]
