"""What the runs of one process share, and what every step of one run needs to know.

A session opens the model and the devices once and obeys signals. Does not know what a run computes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator

from virnucpro.calling.sequential import effort_choice
from virnucpro.embedding.group import (
    Announcements,
    PeerLostError,
    abandon_group,
    make_accelerator,
)
from virnucpro.embedding.store import FeatureStore
from virnucpro.errors import StoreError
from virnucpro.homology.choice import reference_choice
from virnucpro.launch import World, resume_hint, stopped
from virnucpro.models.bundle import Bundle, resolve_bundle
from virnucpro.models.choices import resolve_precision
from virnucpro.models.encoder import Encoder
from virnucpro.reporting.progress import Display
from virnucpro.run.ahead import check_stride
from virnucpro.run.state import WorkPlace
from virnucpro.run.stopping import Stopping
from virnucpro.run.timing import Clock
from virnucpro.settings import Choice, PredictSettings

log = logging.getLogger(__name__)

SECONDS_FOR_THE_LAUNCHER = 5.0  # to find out which process died, and end the others


@dataclass(frozen=True, slots=True)
class Run:
    """What every step of a run in this process needs to know."""

    settings: PredictSettings
    world: World
    bundle: Bundle
    device: torch.device
    place: WorkPlace
    board: Announcements
    display: Display
    clock: Clock
    choices: list[Choice]  # grows as choices are made
    stores: list[FeatureStore]  # on the main process: what a signal has to flush

    def clear(self) -> None:
        """Drop unfinished work."""
        for store in self.stores:
            store.remove()
        self.place.clear()


@dataclass(slots=True)
class Session:
    """What several runs of one process share: its place among the processes, the model, the
    device, and the encoders once they are loaded.

    clock: of the run that is going on; that of the first one began with the session. stores: those
    of the run that is going on, which a signal has to flush. encoders: on the device already, by
    name; None where each is dropped after its use, as a single run does. computing: all processes
    are embedding together, and none can leave this without the others.
    """

    world: World
    bundle: Bundle
    accelerator: Accelerator
    precision: str
    choices: tuple[Choice, ...]
    display: Display
    clock: Clock
    stores: list[FeatureStore] = field(default_factory=list)
    encoders: dict[str, Encoder] | None = None
    computing: bool = False
    name: str = ""  # tells the notes of a session within another one from those of that
    screen: Session | None = None  # of the model that looks first, once it has been opened

    def new_run(self, settings: PredictSettings, number: int) -> Run:
        """The run `number` of this session, from 0."""
        call = settings.call.of_model(self.bundle.calibration)
        return Run(
            replace(settings, precision=self.precision, call=call),
            self.world,
            self.bundle,
            self.accelerator.device,
            WorkPlace(settings.output_dir, settings.checkpoint_dir),
            Announcements(f"{self.name}{number}"),
            self.display,
            self.clock,
            [*self.choices, *reference_choice(call), *effort_choice(settings.effort)],
            self.stores,
        )

    def end_run(self) -> None:
        """Forget the run that has ended, before another one."""
        self.computing = False
        self.stores.clear()
        self.clock = Clock()


@contextmanager
def open_session(
    settings: PredictSettings,
    world: World,
    cpu: bool,
    choices: Iterable[Choice],
    display: Display,
    own_process: bool = True,
) -> Iterator[Session]:
    """The model and the devices of `settings`, while entered; signals are obeyed.

    own_process: signals may end this process, once finished work is on disk; False inside somebody
    else's program.
    """
    clock, stores = Clock(), list[FeatureStore]()
    with ExitStack() as stack:
        if own_process:
            stack.enter_context(
                Stopping(
                    lambda number: _stopped(number, stores, settings, world, display), world.parent
                )
            )
        with clock.stage("start"):
            bundle, chosen = resolve_bundle(settings.model)
            check_stride(settings, bundle)  # before anything is written
            accelerator = make_accelerator(world, cpu)
            precision = resolve_precision(
                settings.precision,
                accelerator.device,
                accelerator.mixed_precision if world.launched else None,
                bundle.cpu_precision,
            )
        stack.callback(abandon_group)
        all_choices = (chosen, *choices, precision)
        yield Session(
            world, bundle, accelerator, precision.value, all_choices, display, clock, stores
        )


@contextmanager
def finished_work_kept(run: Run) -> Iterator[None]:
    """Whatever goes wrong inside: embeddings that are there are written before the error goes on
    its way.
    """
    try:
        yield
    except BaseException as error:
        with suppress(StoreError):  # the disk may be what went wrong
            for store in run.stores:
                store.flush()
        if isinstance(error, PeerLostError):
            time.sleep(SECONDS_FOR_THE_LAUNCHER)
            raise PeerLostError(f"{error}; {resume_hint(run.settings.force)}") from error
        raise


def _stopped(
    number: int,
    stores: list[FeatureStore],
    settings: PredictSettings,
    world: World,
    display: Display,
) -> None:
    """A signal came: keep what is finished, say how to go on."""
    try:
        for store in stores:
            store.flush()
    except StoreError as error:
        log.error("%s", error)
    if world.is_main:
        display.__exit__(None, None, None)  # gives the terminal back
        if not world.self_launched:
            log.error("%s", stopped(number, settings.force))
