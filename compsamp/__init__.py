"Fast diffusion sampling, taught, checked and measured. The chapters in `nbs/` are the source of every other module here."

__version__ = "0.1.0"


def load(
    name="fashion-vp",  # a network that comes with the package, or a checkpoint folder
    device="cpu",       # 'cpu', 'cuda', 'mps', or None for the best one there is
    amp=False,          # run the network in bfloat16
):
    "A trained network bound to its process, ready for `compsamp.sampling.sample`: see `compsamp.zoo.load`."
    from .zoo import load

    return load(name, device, amp=amp)
