"""Make a video to try a bundle on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edge_cnnlstm.cli.console import console


def sample_video(
    path: Annotated[Path, typer.Argument(metavar="OUT.mp4", help="The video to write.")],
    scenes: Annotated[int, typer.Option(min=1, help="How many digits, one after the other.")] = 13,
    seed: Annotated[int, typer.Option(help="Seed of digits, paths and backgrounds.")] = 2,
) -> None:
    """Write an MPEG-4 video of digits that training never saw: 320×240 at 30 frames a second, 48 frames a digit.

    Beside OUT.mp4 it writes OUT.truth.jsonl: what each frame shows.
    """
    from edge_cnnlstm.training.data.occluded_digits import Scene, held_out_clip
    from edge_cnnlstm.training.data.video import write_video

    scene = Scene(frames=48, height=240, width=320)
    clips = [held_out_clip(index, scene, seed=seed) for index in range(scenes)]
    write_video(path, (frame for clip in clips for frame in clip.frames), scene.height, scene.width, rate=30)
    size = [scene.width, scene.height] * 2
    truth = [
        {
            "label": str(clip.truth["digit"][time]),
            "box": [round(float(v), 2) for v in clip.truth["target_box"][time] * size],
            "visible": bool(clip.truth["target_visible"][time]),
        }
        for clip in clips
        for time in range(scene.frames)
    ]
    path.with_suffix(".truth.jsonl").write_text("".join(json.dumps(frame) + "\n" for frame in truth))
    console.print(f"Wrote [bold]{path}[/]: {len(truth)} frames of {scene.width}×{scene.height}")
