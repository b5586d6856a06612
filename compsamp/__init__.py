"""Fast diffusion sampling, taught, checked and measured.

The chapters in `nbs/` are the source of every other module here."""

__version__ = "0.1.0"


def load(
    name="fashion-vp",  # a network that comes with the package, or a checkpoint folder
    device="cpu",  # 'cpu', 'cuda', 'mps', or None for the best one there is
    amp=False,  # run the network in bfloat16
):
    "A trained network bound to its process, ready to sample: see `compsamp.zoo.load`."
    from .zoo import load

    return load(name, device, amp=amp)


def _one_thread_per_notebook():
    """`nbdev_test` runs our notebooks side by side, one a core, and threads beyond the cores wait
    for one another longer than they work. There, and nowhere else, a process takes one."""
    import os
    import sys
    from pathlib import Path

    here = Path(__file__).resolve().parent.parent / "nbs"
    if os.environ.get("IN_TEST") != "1" or os.environ.get("OMP_NUM_THREADS") or Path.cwd() != here:
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:  # which read the variable when it was loaded
        sys.modules["torch"].set_num_threads(1)


_one_thread_per_notebook()
