"""The simulator, where its packages and a way to draw are there."""

import importlib.util

import pytest


@pytest.fixture(scope="session")
def needs_simulator():
    """Skips, with the reason, where the simulator cannot draw; every other failure to start is a failure."""
    missing = [name for name in ("mujoco", "gym_hil", "h5py") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the extra 'sim' is not installed: no {', '.join(missing)}")
    from vjepa_lab.planning.sim import FrankaSim

    try:
        FrankaSim(size=16).close()
    except ValueError as error:
        if "no drawing context" not in str(error) and "osmesa" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sim(needs_simulator):
    """A reaching arm with small pictures, and the goal of seed 0."""
    from vjepa_lab.planning.sim import FrankaSim

    with FrankaSim(size=48) as simulator:
        simulator.reset(0)
        yield simulator
