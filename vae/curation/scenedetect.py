"""The door to PySceneDetect: its cuts, from frames of the one reader, with its settings in words."""

from numpy import ndarray

from vae.curation.shots import split

DETECTORS = ("adaptive", "content")


class SceneDetect:
    """PySceneDetect's adaptive or content detector, with its own settings; as `ShotSignals`, of cuts
    alone."""

    def __init__(self, name: str, fps: float):
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        self.detector = {"adaptive": AdaptiveDetector, "content": ContentDetector}[name]()
        self.time, self.seen, self.cuts = lambda number: FrameTimecode(number, fps or 1.0), 0, []

    def add(self, frames_THWC: ndarray) -> None:
        """Looks at the next frames, bytes of RGB."""
        factor = max(1, min(frames_THWC.shape[1:3]) // 144)
        for frame in frames_THWC[:, ::factor, ::factor, ::-1]:
            self.cuts += self.detector.process_frame(self.time(self.seen), frame.copy())
            self.seen += 1

    def pieces(self) -> list[tuple[int, int, str]]:
        """The whole file in pieces, all of them shots."""
        late = self.detector.post_process(self.time(self.seen))
        return split(self.seen, [cut.frame_num for cut in [*self.cuts, *late]], [])


def described(name: str) -> str:
    """Version, detector and its defaults, as they stand in a manifest."""
    import inspect

    import scenedetect
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    kind = {"adaptive": AdaptiveDetector, "content": ContentDetector}[name]
    simple = (int, float, bool)
    settings = {
        key: value.default
        for key, value in inspect.signature(kind.__init__).parameters.items()
        if isinstance(value.default, simple)
    }
    words = ", ".join(f"{key} = {value}" for key, value in settings.items())
    return f"PySceneDetect {scenedetect.__version__} {kind.__name__} ({words})"
