"""What can be trained on: one section per kind of data, chosen by its `kind`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from edge_cnnlstm.training.config import Importable, Options, Section


def _parts_the_whole(shares: tuple[float, float, float]) -> tuple[float, float, float]:
    if not (min(shares) > 0 and abs(sum(shares) - 1) < 1e-6):
        raise ValueError(f"the shares {shares} of train, validation and test must be above 0 and add up to 1")
    return shares


def _has_one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"{pattern!r} has {groups} groups in parentheses, not the one that names who belongs together")
    return pattern


Shares = Annotated[tuple[float, float, float], AfterValidator(_parts_the_whole)]
GroupPattern = Annotated[str, AfterValidator(_has_one_group)]


class RenderedConfig(Section):
    """Clips drawn from scikit-learn's handwritten digits: how many in an epoch, and how many to score on."""

    clips: int = Field(default=1920, gt=0)
    held_out: int = Field(default=400, gt=0)


class OccludedDigitsConfig(RenderedConfig):
    """Digits that move and pass behind an occluder; `ask` says what each frame is asked.

    `digit`: which is it? `odd`: is it odd? `target`: where is it, and is it in sight? `velocity`: how does it move?
    """

    kind: Literal["occluded-digits"] = "occluded-digits"
    frames: int = Field(default=16, gt=0)
    ask: tuple[Literal["digit", "odd", "target", "velocity"], ...] = Field(default=("digit", "target"), min_length=1)


class GesturesConfig(RenderedConfig):
    """Something moves; the label is how, and no single frame tells."""

    kind: Literal["gestures"] = "gestures"
    frames: int = Field(default=16, gt=1)


class RecallConfig(RenderedConfig):
    """A digit in the first frames, then distractors: the label of the last frame is the first digit."""

    kind: Literal["recall"] = "recall"
    frames: int = Field(default=48, gt=0)


class DigitImagesConfig(Section):
    """Single images: the digits themselves, each `repeats` times an epoch of training, warped a little each time."""

    kind: Literal["digit-images"] = "digit-images"
    augment: bool = True
    repeats: int = Field(default=1, gt=0)


class AugmentConfig(Section):
    """How much a training clip may be changed; the same change for each of its frames. 0 is none.

    Shares and probabilities are 0..1. `crop` is the largest share of a side that is cut off; `flip` the probability
    of mirroring, with `flip_labels` naming the labels that turn into each other, each pair once; `colour` the largest
    relative change of brightness, contrast and saturation; `blur` and `noise` the largest standard deviations, in
    pixels and in grey levels; `drop` the probability that a frame is replaced by the one before it; `speed` the
    largest relative change of speed; `occlude` the probability of a rectangle that hides part of the picture.
    """

    crop: float = Field(default=0.0, ge=0, lt=1)
    flip: float = Field(default=0.0, ge=0, le=1)
    flip_labels: dict[str, str] = Field(default={})
    colour: float = Field(default=0.0, ge=0, lt=1)
    blur: float = Field(default=0.0, ge=0, le=32)
    noise: float = Field(default=0.0, ge=0, le=255)
    drop: float = Field(default=0.0, ge=0, lt=1)
    speed: float = Field(default=0.0, ge=0, lt=1)
    occlude: float = Field(default=0.0, ge=0, le=1)


class FilesConfig(Section):
    """Videos or folders of frames on disk.

    A clip is `frames` frames, each `every`-th of the video; in training it begins anywhere, and otherwise lies in the
    video's middle. `shares` of train, validation and test split what no file splits: everything, or the training
    part where only some of the three are given. `corrupt` says what to do with a file that cannot be decoded: stop,
    or skip it, count it and take another of its class. `cache_mib` of shared memory keep decoded frames between
    epochs.
    """

    # Absolute, so that a saved recipe means the same from anywhere on this machine.
    root: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
    frames: int = Field(default=16, gt=0)
    every: int = Field(default=1, gt=0)
    shares: Shares = (0.7, 0.15, 0.15)
    corrupt: Literal["stop", "skip"] = "stop"
    cache_mib: int = Field(default=0, ge=0)
    augment: AugmentConfig = AugmentConfig()


class VideoFolderConfig(FilesConfig):
    """One folder per class, full of videos: `root/<class>/<video>`.

    With folders `root/train`, `root/validation` and `root/test` of that layout, they are the split. `per` says whether
    each frame is asked for the label, or the clip's last one. `group` is a regular expression whose one group is
    read from the file's name: videos that share it, as those of one person, are never parted.
    """

    kind: Literal["video-folder"] = "video-folder"
    per: Literal["frame", "clip"] = "clip"
    group: GroupPattern | None = None


class FrameFoldersConfig(FilesConfig):
    """One folder of images per clip, and one CSV per split: `id;label`, as the Jester set has them.

    `labels` is a file with one label per line; `train` and `validation` (and `test`, where its labels are known) name
    CSV files. Paths are relative to `root`.
    """

    kind: Literal["frame-folders"] = "frame-folders"
    folders: Path = Path()
    labels: Path = Path("jester-v1-labels.csv")
    train: Path = Path("jester-v1-train.csv")
    validation: Path = Path("jester-v1-validation.csv")
    test: Path | None = None
    per: Literal["frame", "clip"] = "clip"


class Ucf101Config(FilesConfig):
    """UCF101: `root/<class>/v_<class>_gNN_cNN.avi`, and its split files `trainlist0N.txt`, `testlist0N.txt`.

    The videos of one group (gNN) show one person or scene; part of the training groups are held out for validation.
    """

    kind: Literal["ucf101"] = "ucf101"
    splits: Path = Path("ucfTrainTestlist")
    split: Literal[1, 2, 3] = 1
    per: Literal["frame", "clip"] = "clip"


class BoxesConfig(FilesConfig):
    """Videos with one target each, and where it is: a CSV `video,frame,x,y,width,height,visible` or the same as JSON.

    The JSON is a list of objects with these keys. `video` is a path relative to `root`, of a file or of a folder of
    images; frames count from 0; x and y are the left and top edge, in pixels of the video; the four may be left empty
    (null) where `visible` is 0. A frame without a line is not known. `outside` says what to do with a box that
    reaches out of its frame: stop, or cut it to the picture.
    """

    kind: Literal["boxes"] = "boxes"
    annotations: Path = Path("boxes.csv")
    outside: Literal["stop", "clip"] = "stop"
    group: GroupPattern | None = None


class ModuleDataConfig(Section):
    """Data of your own: `module = "package.module:Name"`, a class or a function.

    `Name(network=…, seed=…, **options)` returns a `Corpus`, whose clips have `network.height` × `network.width` pixels.
    """

    kind: Literal["module"] = "module"
    module: Importable
    options: Options = Field(default={})


DataConfig = Annotated[
    OccludedDigitsConfig
    | GesturesConfig
    | RecallConfig
    | DigitImagesConfig
    | VideoFolderConfig
    | FrameFoldersConfig
    | Ucf101Config
    | BoxesConfig
    | ModuleDataConfig,
    Field(discriminator="kind"),
]
