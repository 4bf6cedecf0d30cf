"""Answers as a person reads them on a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape

from edge_cnnlstm.runtime.prediction import Answer, Classification, Regression


def said(answers: Mapping[str, Answer]) -> str:
    """Return every head's answer in one line of rich's markup."""
    return "  ".join(f"{escape(name)} {_said(answer)}" for name, answer in answers.items())


def _said(answer: Answer) -> str:
    if isinstance(answer, Classification):
        return f"[bold]{escape(answer.label)}[/] {answer.score:.0%}"
    if isinstance(answer, Regression):
        return ", ".join(f"{escape(name)} {value:.4g}" for name, value in answer.values.items())
    sight = "in sight" if answer.presence >= 0.5 else "hidden"
    return f"{sight} at ({answer.box.x:.0f}, {answer.box.y:.0f})"
