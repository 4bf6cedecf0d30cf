"""The thread that reads a source into a mailbox."""

from __future__ import annotations

import threading

from edge_cnnlstm.runtime.mailbox import Mailbox
from edge_cnnlstm.runtime.realtime import Realtime
from edge_cnnlstm.runtime.sources.base import Source


def fetching(source: Source, mailbox: Mailbox, realtime: Realtime) -> threading.Thread:
    """Return a thread, not yet started, that moves a source's frames until it ends or nobody takes them.

    It closes the source too, and hands an error on to whoever takes the last frame.
    """
    name = "edge-cnnlstm-source"
    return threading.Thread(target=_fetch, args=(source, mailbox, realtime), name=name, daemon=True)


def _fetch(source: Source, mailbox: Mailbox, realtime: Realtime) -> None:
    error: BaseException | None = None
    try:
        with realtime.thread():
            for frame in source:
                if not mailbox.put(frame):
                    break
    except BaseException as raised:  # noqa: BLE001 - handed to the consumer, which raises it
        error = raised
    # The thread that reads is the one that releases: a camera released under a read crashes OpenCV.
    try:
        source.close()
    except BaseException as raised:  # noqa: BLE001 - as above
        error = error or raised
    mailbox.finish(error)
