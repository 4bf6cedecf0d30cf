"""A study that any number of workers share through its storage: who works on which trial, and what became of it.

A trial is *claimed* by whoever created it or is working on it. One that was given up, because of Ctrl-C or because its
worker died, is no longer claimed and does not count; its values are tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import optuna
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from edge_cnnlstm.errors import ConfigError, DependencyError
from edge_cnnlstm.training.identity import Identity, difference

BEAT = 10.0
"""Seconds between two signs of life of a worker."""
MISSED = 6
"""After this many missing signs of life a worker is taken for dead."""
ATTEMPTS = 3
"""How many workers may die over one trial before it counts as failed: it may need more memory than there is."""

ERROR, ATTEMPT, ALIVE, IDENTITY = "error", "attempt", "alive", "identity"
"""Attributes that are stored with a trial, and with the study."""


def open_study(
    place: str, name: str, identity: Identity, pruner: optuna.pruners.BasePruner, *, maximize: bool
) -> optuna.Study:
    """Open a study, or begin it: in a database, when `place` is a URL, or else in a journal file.

    Raises ConfigError when the storage cannot be used, or holds a study of this name that is other work, naming the
    first difference; DependencyError when the database's driver is not installed.
    """
    try:
        study = optuna.create_study(
            storage=_storage(place),
            study_name=name,
            direction="maximize" if maximize else "minimize",
            pruner=pruner,
            load_if_exists=True,
        )
        if IDENTITY not in study.user_attrs:
            study.set_user_attr(IDENTITY, dict(identity))
        before = study.user_attrs[IDENTITY]
    except ImportError as error:
        raise DependencyError(
            f"no driver for the storage {without_password(place)}: {error}",
            expected="the Python package of that database",
            fix="install it, or use a journal file on a shared disk",
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AssertionError, OptunaError, SQLAlchemyError) as error:
        raise ConfigError(
            f"storage {without_password(place)}: {_first_line(error)}",
            expected="a database URL, or the path of a journal file, that this user may write",
            fix="correct it; a damaged journal must be given up",
        ) from error
    if found := difference(before, identity):
        raise ConfigError(
            f"study {name!r} in {without_password(place)} is another search: {found}",
            expected="the recipe and the data that the study began with",
            fix="choose another folder or storage, or another name with --set tune.study=…",
        )
    return study


class Worker:
    """One process's part in a study: it claims trials until `trials` are finished.

    No worker's clock is ever compared with another's: dead is whose sign of life has not changed while this
    process's own clock went on.
    """

    def __init__(self, study: optuna.Study, trials: int, *, seed: int, beat: float = BEAT) -> None:
        self.study = study
        self.trials = trials
        self.seed = seed
        self.beat = beat
        self._seen: dict[int, tuple[int, float]] = {}

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that count: completed, pruned, or failed by their own fault."""
        return [trial for trial in self._claimed() if trial.state.is_finished()]

    def claim(self, waiting: Callable[[], None]) -> optuna.Trial | None:
        """Return a trial to work on, or None when all are finished.

        While others work on the last ones it waits, and calls `waiting` now and then. A trial's values are drawn
        from the seed and from how many trials came before it, so that workers draw different ones and a search that
        goes on draws what it would have drawn.
        """
        while len(self.finished()) < self.trials:
            self._give_up_the_dead()
            if self._is_room():
                trial = self.study.ask()
                place = self._place(trial.number)
                if place < self.trials:
                    seed = np.random.SeedSequence([self.seed, place]).generate_state(1)[0]
                    self.study.sampler = optuna.samplers.TPESampler(seed=int(seed))
                    return trial
                self._tell(trial.number, TrialState.FAIL)  # another worker was first: room for it there is not
            else:
                waiting()
                time.sleep(min(1.0, self.beat))
        return None

    @contextmanager
    def working_on(self, trial: optuna.Trial) -> Iterator[None]:
        """Give signs of life; a trial that an exception leaves before it was recorded as finished is given up."""
        done = threading.Event()
        signs = threading.Thread(target=self._give_signs, args=(trial, done), daemon=True)
        signs.start()
        try:
            yield
        except UpdateFinishedTrialError:
            pass  # This process slept for so long that another took the trial over.
        except BaseException:
            if not self._stored(trial.number).state.is_finished():
                trial.set_user_attr(ERROR, "")  # whatever attempt this was, its worker did not die
                self._give_up(self._stored(trial.number), self._attempt(trial))
            raise
        finally:
            done.set()
            signs.join()

    def complete(self, trial: optuna.Trial, value: float) -> None:
        """Record a score."""
        self._tell(trial.number, TrialState.COMPLETE, value)

    def prune(self, trial: optuna.Trial) -> None:
        """Record that a trial was stopped early; its last score is kept."""
        self._tell(trial.number, TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, error: str) -> None:
        """Record that a trial cannot be trained, and why."""
        trial.set_user_attr(ERROR, error)
        self._tell(trial.number, TrialState.FAIL)

    def _claimed(self) -> list[FrozenTrial]:
        """Return every trial but those that were given up or withdrawn."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state != TrialState.FAIL or trial.user_attrs.get(ERROR)]

    def _is_room(self) -> bool:
        claimed = self._claimed()
        return len(claimed) < self.trials or any(trial.state == TrialState.WAITING for trial in claimed)

    def _place(self, number: int) -> int:
        """Return how many trials were claimed before this one.

        Two workers may create the last trial at once. Of those, all agree, the one with the lower number goes on.
        """
        return sum(trial.number < number for trial in self._claimed())

    def _give_up_the_dead(self) -> None:
        now = time.monotonic()
        for trial in self._claimed():
            if trial.state == TrialState.RUNNING:
                sign = trial.user_attrs.get(ALIVE, 0)
                before, since = self._seen.get(trial.number, (None, now))
                self._seen[trial.number] = (sign, since if sign == before else now)
                if sign == before and now - since > MISSED * self.beat:
                    self._give_up(trial, self._attempt(trial) + 1)

    def _give_up(self, trial: FrozenTrial, next_attempt: int) -> None:
        """Withdraw a trial, and queue its values for whoever is next.

        The last attempt is queued with its error: should its worker die too, it counts as failed by its own fault.
        """
        if self._tell(trial.number, TrialState.FAIL) and next_attempt <= ATTEMPTS:
            values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            last = {ERROR: f"{ATTEMPTS} workers died over it"} if next_attempt == ATTEMPTS else {}
            self.study.enqueue_trial(values, user_attrs={ATTEMPT: next_attempt, **last})

    @staticmethod
    def _attempt(trial: FrozenTrial | optuna.Trial) -> int:
        return int(trial.user_attrs.get(ATTEMPT, 1))

    def _give_signs(self, trial: optuna.Trial, done: threading.Event) -> None:
        signs = 0
        while not done.wait(self.beat):
            signs += 1
            # A storage that is out of reach for a moment must not end the training.
            with suppress(OptunaError, SQLAlchemyError, OSError):
                trial.set_user_attr(ALIVE, signs)

    def _tell(self, number: int, state: TrialState, value: float | None = None) -> bool:
        """Record what became of a trial; False when another worker already did."""
        if self._stored(number).state.is_finished():
            return False
        try:
            self.study.tell(number, value, state)
        except UpdateFinishedTrialError:
            return False
        return True

    def _stored(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]


def _storage(place: str) -> BaseStorage:
    if "://" in place:
        try:
            return RDBStorage(place)
        except SQLAlchemyError:
            # Of two workers that make the tables at once, one fails; a moment later it finds them made.
            time.sleep(1)
            return RDBStorage(place)
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def without_password(place: str) -> str:
    """Return a storage without the password that a URL may hold."""
    scheme, slashes, rest = place.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if slashes else place


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
