"""Suites of environments that are extras of this package: what each needs, and its names. Imports none of them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from purejaxppo.errors import ConfigError


@dataclass(frozen=True)
class Suite:
    """A suite `name/...` from the extra `purejaxppo[name]`; its adapter is the module of that name beside this one.

    module: what the package is imported as. package: what it is installed as. names: of its environments.
    """

    name: str
    module: str
    package: str
    names: tuple[str, ...]
    has_discrete_actions: bool = True

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    def check(self) -> None:
        """Raise ConfigError where the package is not installed."""
        if not self.is_installed:
            raise self._missing(self.package)

    def adapter(self) -> Any:
        """The module that makes the environments; raises ConfigError where a package that it needs is missing."""
        try:
            return importlib.import_module(f"purejaxppo.envs.{self.name}")
        except ModuleNotFoundError as error:
            raise self._missing(error.name or self.package) from None

    def _missing(self, package: str) -> ConfigError:
        return ConfigError(
            f"env of suite {self.name} needs the package {package}, which is not installed: "
            f"pip install 'purejaxppo[{self.name}]'."
        )


_JAXTARI = """
    airraid alien amidar assault asterix asteroids atlantis backgammon bankheist basicmath beamrider berzerk
    blackjack boxing breakout casinoblackjack casinofivestudpoker casinopokersolitaire centipede
    choppercommand donkeykong enduro fishingderby flagcapture freeway frostbite galaxian gopher gravitar
    hangman hauntedhouse humancannonball journeyescape kaboom kangaroo kingkong klax lasergates
    miniaturegolf montezumarevenge mspacman namethisgame othello pacman phoenix pong qbert riverraid
    roadrunner seaquest sirlancelot skiing slotmachine spaceinvaders spacewar surround tennis tetris
    timepilot tron turmoil upndown venture videocheckers videochess videocube videopinball wizardofwor
    wordzapper yarsrevenge
"""
_JUMANJI = """
    Game2048-v1 Maze-v0 Minesweeper-v0 PacMan-v1 RubiksCube-partly-scrambled-v0 RubiksCube-v0
    SlidingTilePuzzle-v0 Snake-v1 Sudoku-v0 Sudoku-very-easy-v0 Tetris-v0
"""
_NAVIX = """
    Navix-DistShift1-v0 Navix-DistShift2-v0 Navix-DoorKey-16x16-v0 Navix-DoorKey-5x5-v0 Navix-DoorKey-6x6-v0
    Navix-DoorKey-8x8-v0 Navix-DoorKey-Random-16x16-v0 Navix-DoorKey-Random-5x5-v0
    Navix-DoorKey-Random-6x6-v0 Navix-DoorKey-Random-8x8-v0 Navix-Dynamic-Obstacles-16x16-v0
    Navix-Dynamic-Obstacles-5x5-Random-v0 Navix-Dynamic-Obstacles-5x5-v0
    Navix-Dynamic-Obstacles-6x6-Random-v0 Navix-Dynamic-Obstacles-6x6-v0 Navix-Dynamic-Obstacles-8x8-v0
    Navix-Empty-16x16-v0 Navix-Empty-5x5-v0 Navix-Empty-6x6-v0 Navix-Empty-8x8-v0
    Navix-Empty-Random-16x16-v0 Navix-Empty-Random-5x5-v0 Navix-Empty-Random-6x6-v0
    Navix-Empty-Random-8x8-v0 Navix-FourRooms-v0 Navix-GoToDoor-5x5-v0 Navix-GoToDoor-6x6-v0
    Navix-GoToDoor-8x8-v0 Navix-KeyCorridorS3R1-v0 Navix-KeyCorridorS3R2-v0 Navix-KeyCorridorS3R3-v0
    Navix-KeyCorridorS4R3-v0 Navix-KeyCorridorS5R3-v0 Navix-KeyCorridorS6R3-v0 Navix-LavaGapS5-v0
    Navix-LavaGapS6-v0 Navix-LavaGapS7-v0 Navix-SimpleCrossingS11N5-v0 Navix-SimpleCrossingS9N1-v0
    Navix-SimpleCrossingS9N2-v0 Navix-SimpleCrossingS9N3-v0
"""
_OCTAX = """
    airplane blinky brix cavern1 cavern2 cavern3 cavern5 cavern6 deep filter flight_runner missile pong
    rocket shooting_stars space_flight1 space_flight2 space_flight3 space_flight4 space_flight5
    space_flight6 space_flight7 space_flight8 space_flight9 space_flight10 spacejam squash submarine tank
    target_shooter1 target_shooter2 target_shooter3 tetris ufo vertical_brix wipe_off worm
"""
_PLAYGROUND = """
    AcrobotSwingup AcrobotSwingupSparse BallInCup CartpoleBalance CartpoleBalanceSparse CartpoleSwingup
    CartpoleSwingupSparse CheetahRun FingerSpin FingerTurnEasy FingerTurnHard FishSwim HopperHop HopperStand
    HumanoidRun HumanoidStand HumanoidWalk PendulumSwingup PointMass ReacherEasy ReacherHard SwimmerSwimmer6
    WalkerRun WalkerStand WalkerWalk
"""
_XMINIGRID = """
    MiniGrid-BlockedUnlockPickUp MiniGrid-DoorKey-16x16 MiniGrid-DoorKey-5x5 MiniGrid-DoorKey-6x6
    MiniGrid-DoorKey-8x8 MiniGrid-Empty-16x16 MiniGrid-Empty-5x5 MiniGrid-Empty-6x6 MiniGrid-Empty-8x8
    MiniGrid-EmptyRandom-16x16 MiniGrid-EmptyRandom-5x5 MiniGrid-EmptyRandom-6x6 MiniGrid-EmptyRandom-8x8
    MiniGrid-FourRooms MiniGrid-LockedRoom MiniGrid-MemoryS128 MiniGrid-MemoryS16 MiniGrid-MemoryS32
    MiniGrid-MemoryS64 MiniGrid-MemoryS8 MiniGrid-Playground MiniGrid-Unlock MiniGrid-UnlockPickUp
"""

SUITES = {
    suite.name: suite
    for suite in (
        Suite("craftax", "craftax", "craftax", ("Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1")),
        Suite("jaxtari", "jaxtari", "JAXtari", tuple(_JAXTARI.split())),
        Suite("jumanji", "jumanji", "jumanji", tuple(_JUMANJI.split())),
        Suite("navix", "navix", "Navix", tuple(_NAVIX.split())),
        Suite("octax", "octax", "octax", tuple(_OCTAX.split())),
        Suite("playground", "mujoco_playground", "playground", tuple(_PLAYGROUND.split()), has_discrete_actions=False),
        Suite("xminigrid", "xminigrid", "xminigrid", tuple(_XMINIGRID.split())),
    )
}
"""By name. Tests hold the names against the registries of the packages that are installed."""


def installed_names() -> list[str]:
    """Names, `suite/Environment`, of all suites that are installed."""
    return [f"{suite.name}/{name}" for suite in SUITES.values() if suite.is_installed for name in suite.names]


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of environments the versions of the packages they are from, as provenance keeps them."""
    suites = {SUITES[suite] for name in names if (suite := name.split("/")[0]) in SUITES}
    return {f"version_{x.package}": importlib.metadata.version(x.package) for x in sorted(suites, key=str)}
