"""Ask a checkpoint about an image, a folder of images or a video."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_cnnlstm.cli.answers import said
from edge_cnnlstm.cli.console import output
from edge_cnnlstm.errors import ConfigError, SourceError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.prediction import Answer, Prediction
from edge_cnnlstm.runtime.sinks.json_lines import JsonLines, plain
from edge_cnnlstm.runtime.sources import open_source
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.sources.base import Source
from edge_cnnlstm.runtime.sources.folder import SUFFIXES
from edge_cnnlstm.runtime.stream import Stream

if TYPE_CHECKING:
    from edge_cnnlstm.training.config import ModelConfig


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that `edge-cnnlstm train` wrote.")],
    source: Annotated[str, typer.Argument(help="An image, a folder of images, or a video.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a frame on stdout, as `run` writes.")] = False,
    destination: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.jsonl", help="Also write those lines to this file.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw the answers on up to ten of the frames.")
    ] = None,
) -> None:
    """Answer for every frame: the frames of a video, or of a folder in the order of their names, are one clip.

    A head that is asked once a clip has its answer at the end. A network that scans single images takes each image on
    its own.
    """
    from edge_cnnlstm.training.checkpoint import load_checkpoint
    from edge_cnnlstm.training.torch_backend import TorchBackend

    model = load_checkpoint(checkpoint)
    with ExitStack() as stack:
        stream = stack.enter_context(Stream(TorchBackend(model)))
        frames = stack.enter_context(closing(_open(source, stream.fit)))
        sinks = [JsonLines(sys.stdout)] if as_json else []
        if destination is not None:
            destination.parent.mkdir(parents=True, exist_ok=True)
            sinks.append(JsonLines(stack.enter_context(destination.open("w"))))
        shots = _shots(picture)
        last: Prediction | None = None
        for frame in frames:
            last = stream.step(frame)
            for sink in sinks:
                sink.write(frame, last)
            if not as_json:
                output.print(f"frame {last.frame_index:>5}  {said(last.answers)}", highlight=False, soft_wrap=True)
            if shots is not None:
                shots.add(frame.pixels, frame.placement, last)
        asked = _per_clip(model.config)
        if last is not None and asked:
            _summarize(last, asked, as_json=as_json)
        if shots is not None and picture is not None:
            picture.write_bytes(shots.draw())


def _open(source: str, fit: Fit) -> Source:
    path = Path(source)
    # OpenCV would open an image as a video too, and take the digits in its name for a sequence of files.
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return ArraySource([_image(path)], fit=fit)
    opened = open_source(source, fit=fit)
    if opened.live:
        opened.close()
        raise ConfigError(
            f"{source} never ends",
            expected="an image, a folder of images, or a video file",
            fix="export a bundle and stream it with `edge-cnnlstm run`",
        )
    return opened


def _image(path: Path) -> Any:
    from edge_cnnlstm.runtime.optional import load_cv2

    cv2 = load_cv2()
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise SourceError(f"{path} cannot be decoded", expected="an image that OpenCV decodes", fix="replace the file")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _per_clip(config: ModelConfig) -> list[str]:
    """Return the heads whose answer at the last frame is the clip's; a network of single images has no clips."""
    return [head.name for head in config.heads if head.per == "clip" and config.scan == "frames"]


def _summarize(last: Prediction, asked: list[str], *, as_json: bool) -> None:
    if not as_json:
        answers: Mapping[str, Answer] = {name: last.answers[name] for name in asked}
        output.print(f"the clip      {said(answers)}", highlight=False, soft_wrap=True)
        return
    record = plain(last)
    sys.stdout.write(json.dumps({"clip": {name: record[name] for name in asked}}) + "\n")


def _shots(picture: Path | None) -> Any:
    """Return what collects frames for the picture; find out now, not at the end, whether it can be drawn."""
    if picture is None:
        return None
    from edge_cnnlstm.report.optional import drawing_libraries

    with drawing_libraries():
        from edge_cnnlstm.report.shots import Shots
    picture.parent.mkdir(parents=True, exist_ok=True)
    return Shots()
